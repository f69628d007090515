"""Networks that map a DSC-MRI series straight to rCBV: one architecture a file, weights with cards, inference."""
