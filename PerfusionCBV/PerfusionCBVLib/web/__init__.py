"""The browser face: Slicer's scene and views served to a page, on the same nodes and functions as the panel."""
