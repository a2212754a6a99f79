"""What is measured of one image, and how it adds up."""
