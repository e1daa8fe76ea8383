"""What is wrong, and what to do about it: looks into every part, changes nothing, and is imported by none."""
