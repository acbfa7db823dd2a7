"""What users would pick instead, each as a program that prints how many calls a second it makes.

They run in an environment of their own (`make peers`) and never import the limiter.
"""
