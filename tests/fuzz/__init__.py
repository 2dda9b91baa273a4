"""Inputs that are altered at random, by seed: nothing may break, hang, be read wrongly or be harmed."""
