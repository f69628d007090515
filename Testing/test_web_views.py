"""What a window on the page takes from the mouse."""

import pytest

pytest.importorskip("trame_rca", reason="trame-rca is not installed (extra 'web')")
pytest.importorskip("slicer", reason="slicer-core is not installed (extra 'slicer')")
pytestmark = pytest.mark.web

import slicer_scene  # noqa: E402, F401  it asks before us whether this is the application

BUTTONS = {"shiftKey": 0, "altKey": 0, "ctrlKey": 0, "metaKey": 0}


@pytest.mark.parametrize(
    ("told", "places"),
    [((400, 300), [(100, 90)]), ((400.4, 299.2), [(99, 90)]), ((10, 10), []), ((400, 150), []), ((800, 300), [])],
)
def test_a_click_aimed_at_a_view_of_another_size_is_not_read(told, places):
    import vtk

    from PerfusionCBVLib.web.views import _Area

    window, interactor = vtk.vtkRenderWindow(), vtk.vtkRenderWindowInteractor()
    window.SetOffScreenRendering(True)
    interactor.SetRenderWindow(window)
    interactor.Initialize()
    area = _Area(window, lambda width, height: None)
    area.process_resize_event(400, 300)
    pressed = []
    seen = interactor.GetEventPosition
    interactor.AddObserver(vtk.vtkCommand.LeftButtonPressEvent, lambda *_: pressed.append(seen()))
    event = {"x": 100, "y": 90, "w": told[0], "h": told[1], **BUTTONS}
    area.process_interaction_event({"type": "LeftButtonPress", **event})
    area.process_interaction_event({"type": "LeftButtonRelease", **event})
    assert pressed == places
