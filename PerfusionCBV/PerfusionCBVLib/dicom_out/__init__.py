"""DICOM objects of a result: parametric maps, segmentation, structured report, coloured captures; and sending them.

`objects.make_objects` puts them together; it needs the extra ``dicom``, which importing this package does not.
"""
