"""What the library needs to live in Slicer: nodes in, nodes out; the only place that imports slicer, vtk, qt or ctk."""
