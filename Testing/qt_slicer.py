"""Substitutes for PythonQt, ctk and qMRML widgets under PySide6, so that the real panel runs off-screen; tests only.

`start_qt()` makes `qt`, `ctk` and the `slicer.qMRML…` names importable, on top of slicer-core's real MRML. The shipped
.ui file is loaded by Qt's own loader, and the shipped Python files run unchanged: PySide6's `true_property` gives them
PythonQt's attribute style (`button.enabled = True`).

What these substitutes don't show:

- PythonQt's conversions: whether a C++ signature takes what Python gives it, and which of several overloads it takes.
- Slicer's own widgets: theirs look and behave differently. The node selector here lists "none" and the scene's nodes of
  its types, and reports the choice; it does not filter by attribute, rename, edit or remove. The segment selector lists
  the segments of one segmentation.
- Dialogs: files, folders and questions are answered from `answers`, messages are kept in `messages`, addresses in
  `opened`; nothing waits for a user.
- The layout manager: views exist as MRML nodes only. `Testing/slice_view.py` renders them.
- Qt 5: PySide6 is Qt 6.
"""

import gc
import os
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType, SimpleNamespace

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets  # before __feature__, which it brings

# PySide6 looks into every module that is imported already, which torch's made-up modules don't bear.
_torch = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "torch"}
import __feature__  # noqa: E402  isort: skip
from __feature__ import true_property  # noqa: E402, F401  isort: skip  this file is in attribute style

sys.modules.update(_torch)

TRUE_PROPERTY = 2
MODULE_FOLDER = Path(__file__).resolve().parent.parent / "PerfusionCBV"

answers: dict[str, object] = {}
"""What the user would answer: `folder`, `file`, `save`, `confirm`."""

messages: list[tuple[str, str]] = []
"""(kind, text) of every message box."""

opened: list[str] = []
"""Addresses that a browser would open."""


class _FileDialog:
    """Answers at once; PythonQt's functions return the path only, PySide6's a pair."""

    @staticmethod
    def getExistingDirectory(parent=None, caption="", directory=""):
        return answers.get("folder", "")

    @staticmethod
    def getOpenFileName(parent=None, caption="", directory="", filters=""):
        return answers.get("file", "")

    @staticmethod
    def getSaveFileName(parent=None, caption="", directory="", filters=""):
        return answers.get("save", "")


class _DesktopServices:
    @staticmethod
    def openUrl(url):
        opened.append(url.toString())
        return True


# --- ctk --------------------------------------------------------------------------------------------------------------


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A header that hides what its layout holds."""

    contentsCollapsed = QtCore.Signal(bool)
    HEADER = 26

    def __init__(self, parent=None):
        super().__init__(parent)
        self._collapsed = self._forcing = False
        self.setContentsMargins(0, self.HEADER, 0, 0)
        policy = QtWidgets.QSizePolicy.Policy
        self.sizePolicy = QtWidgets.QSizePolicy(policy.Minimum, policy.Preferred)
        self.clicked.connect(lambda: setattr(self, "collapsed", not self.collapsed))

    def _get(self):
        return self._collapsed

    def _set(self, collapsed):
        self._collapsed = bool(collapsed)
        for child in self.children():
            if child.isWidgetType():
                self._show_or_hide(child)
        self.maximumHeight = self.HEADER if self._collapsed else 16777215
        self.contentsCollapsed.emit(self._collapsed)

    collapsed = QtCore.Property(bool, _get, _set)

    def childEvent(self, event):
        if event.added() and event.child().isWidgetType():
            event.child().installEventFilter(self)
            self._show_or_hide(event.child())

    def eventFilter(self, child, event):
        """Remember whether a child wants to be seen, also while all are hidden."""
        kinds = {QtCore.QEvent.Type.ShowToParent: True, QtCore.QEvent.Type.HideToParent: False}
        if event.type() in kinds and not self._forcing:
            child.setProperty("visibilityToParent", kinds[event.type()])
            self._show_or_hide(child)
        return False

    def _show_or_hide(self, child):
        self._forcing = True
        wanted = child.property("visibilityToParent") is not False
        child.visible = wanted and not self._collapsed
        if wanted:  # as in ctk: hiding it for a reason of its own shall still be an event
            child.setAttribute(QtCore.Qt.WidgetAttribute.WA_WState_ExplicitShowHide, False)
        self._forcing = False

    def sizeHint(self):
        hint = self.layout().totalSizeHint() if self.layout() and not self._collapsed else QtCore.QSize(120, 0)
        return QtCore.QSize(hint.width(), self.HEADER if self._collapsed else hint.height())

    minimumSizeHint = sizeHint

    def paintEvent(self, event):
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width, self.HEADER - 2)
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, 5, 14, 14)
        shape = QtWidgets.QStyle.PrimitiveElement
        painter.drawPrimitive(shape.PE_IndicatorArrowRight if self._collapsed else shape.PE_IndicatorArrowDown, arrow)
        where = QtCore.QRect(26, 0, self.width - 30, self.HEADER - 2)
        painter.drawText(where, QtCore.Qt.AlignmentFlag.AlignVCenter, self.text)


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider with its number beside it."""

    valueChanged = QtCore.Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.spinBox = QtWidgets.QDoubleSpinBox()
        self.slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self.slider.maximum = 1000
        row = QtWidgets.QHBoxLayout(self)
        row.contentsMargins = QtCore.QMargins(0, 0, 0, 0)
        row.addWidget(self.slider, 1)
        row.addWidget(self.spinBox)
        self.spinBox.valueChanged.connect(self._number_changed)
        self.slider.sliderMoved.connect(self._slider_moved)

    def _number_changed(self, value):
        span = self.maximum - self.minimum
        self.slider.value = round(1000 * (value - self.minimum) / span) if span else 0
        self.valueChanged.emit(value)

    def _slider_moved(self, position):
        self.value = self.minimum + position / 1000 * (self.maximum - self.minimum)

    value = property(lambda self: self.spinBox.value, lambda self, v: setattr(self.spinBox, "value", v))
    minimum = property(lambda self: self.spinBox.minimum, lambda self, v: setattr(self.spinBox, "minimum", v))
    maximum = property(lambda self: self.spinBox.maximum, lambda self, v: setattr(self.spinBox, "maximum", v))
    decimals = QtCore.Property(
        int, lambda self: self.spinBox.decimals, lambda self, v: setattr(self.spinBox, "decimals", v)
    )
    singleStep = QtCore.Property(
        float, lambda self: self.spinBox.singleStep, lambda self, v: setattr(self.spinBox, "singleStep", v)
    )


class ctkRangeWidget(QtWidgets.QWidget):
    """Two numbers, the first never above the second, and the range between them on a line."""

    valuesChanged = QtCore.Signal(float, float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.low, self.high = QtWidgets.QDoubleSpinBox(), QtWidgets.QDoubleSpinBox()
        self.line = _RangeLine(self)
        row = QtWidgets.QHBoxLayout(self)
        row.contentsMargins = QtCore.QMargins(0, 0, 0, 0)
        for widget, stretch in ((self.low, 0), (self.line, 1), (self.high, 0)):
            row.addWidget(widget, stretch)
        self.low.valueChanged.connect(lambda value: self.setValues(value, max(value, self.high.value)))
        self.high.valueChanged.connect(lambda value: self.setValues(min(value, self.low.value), value))

    minimumValue = property(lambda self: self.low.value)
    maximumValue = property(lambda self: self.high.value)
    decimals = QtCore.Property(int, lambda self: self.low.decimals, lambda self, v: self._both("decimals", v))
    singleStep = QtCore.Property(float, lambda self: self.low.singleStep, lambda self, v: self._both("singleStep", v))

    def _both(self, name, value):
        for box in (self.low, self.high):
            setattr(box, name, value)

    def setRange(self, minimum, maximum):
        self._both("minimum", minimum)
        self._both("maximum", maximum)

    def setValues(self, low, high):
        before = self.low.blockSignals(True), self.high.blockSignals(True)
        self.low.value, self.high.value = low, high
        self.low.blockSignals(before[0]), self.high.blockSignals(before[1])
        self.line.update()
        if (low, high) != getattr(self, "_emitted", None):
            self._emitted = (low, high)
            self.valuesChanged.emit(low, high)


class _RangeLine(QtWidgets.QWidget):
    def __init__(self, owner):
        super().__init__()
        self.owner = owner

    def paintEvent(self, event):
        painter, box = QtGui.QPainter(self), self.owner.low
        span = (box.maximum - box.minimum) or 1.0
        ends = [round(self.width * (v - box.minimum) / span) for v in (self.owner.low.value, self.owner.high.value)]
        painter.fillRect(0, self.height // 2 - 2, self.width, 4, self.palette.color(QtGui.QPalette.ColorRole.Mid))
        painter.fillRect(
            ends[0], self.height // 2 - 2, ends[1] - ends[0], 4, self.palette.color(QtGui.QPalette.ColorRole.Highlight)
        )
        for x in ends:
            painter.fillRect(min(max(x - 3, 0), self.width - 6), self.height // 2 - 8, 6, 16, QtGui.QColor("#777777"))


# --- qMRML ------------------------------------------------------------------------------------------------------------


class qMRMLWidget(QtWidgets.QWidget):
    """Hands its scene on to the widgets that the .ui file connects to it."""

    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.scene = None

    def setMRMLScene(self, scene):
        self.scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return self.scene


class qMRMLNodeComboBox(QtWidgets.QComboBox):
    """The scene's nodes of some types, by name, after "none"."""

    currentNodeChanged = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._types, self._nodes, self._node, self._tags = None, (), [None], None, []
        self._none = "None"
        self.attributes = []
        self.sizeAdjustPolicy = QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        self.minimumContentsLength = 10
        self.activated.connect(lambda index: self.setCurrentNode(self._nodes[index]))

    nodeTypes = QtCore.Property(
        "QStringList", lambda self: list(self._types), lambda self, v: self._set("_types", tuple(v))
    )
    noneDisplay = QtCore.Property(str, lambda self: self._none, lambda self, v: self._set("_none", v))
    for _name in ("noneEnabled", "addEnabled", "removeEnabled", "renameEnabled", "editEnabled", "showChildNodeTypes"):
        locals()[_name] = QtCore.Property(bool, lambda self: False, lambda self, v: None)
    del _name

    def _set(self, name, value):
        setattr(self, name, value)
        self._fill()

    def addAttribute(self, node_type, name, value=None):
        self.attributes.append((node_type, name, value))

    def setMRMLScene(self, scene):
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene, self._tags = scene, []
        if scene is not None:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent)
            self._tags = [scene.AddObserver(event, lambda caller, event: self._fill()) for event in events]
            self._fill()

    def _fill(self):
        if self._scene is None:
            return
        found = [n for t in self._types for n in slicer.util.getNodesByClass(t, self._scene)]
        # As in Slicer with showChildNodeTypes off: the class itself only, unless any node is wanted.
        found = [n for n in found if n.GetClassName() in self._types or "vtkMRMLNode" in self._types]
        shown = self._node if any(n is self._node for n in found) else None
        self._nodes = [None, *found]
        self.clear()
        for node in self._nodes:
            self.addItem(self._none if node is None else node.GetName())
        if shown is not self._node:
            self.setCurrentNode(shown)
        else:
            self.currentIndex = next(i for i, n in enumerate(self._nodes) if n is shown)

    def currentNode(self):
        return self._node

    def setCurrentNode(self, node):
        index = next((i for i, n in enumerate(self._nodes) if n is node), 0)
        changed = self._nodes[index] is not self._node
        self._node = self._nodes[index]
        self.currentIndex = index
        if changed:
            self.currentNodeChanged.emit(self._node)


class qMRMLSegmentSelectorWidget(QtWidgets.QWidget):
    """A segmentation, and one of its segments."""

    currentNodeChanged = QtCore.Signal(object)
    currentSegmentChanged = QtCore.Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.selector, self.segments = qMRMLNodeComboBox(), QtWidgets.QComboBox()
        self.selector.nodeTypes = ["vtkMRMLSegmentationNode"]
        self.selector.noneDisplay = "Select a segmentation"
        self._ids = []
        column = QtWidgets.QVBoxLayout(self)
        column.contentsMargins = QtCore.QMargins(0, 0, 0, 0)
        column.addWidget(self.selector)
        column.addWidget(self.segments)
        self.selector.currentNodeChanged.connect(self._node_changed)
        self.segments.currentIndexChanged.connect(
            lambda index: self.currentSegmentChanged.emit(self.currentSegmentID())
        )

    noneEnabled = QtCore.Property(bool, lambda self: True, lambda self, v: None)

    def setMRMLScene(self, scene):
        self.selector.setMRMLScene(scene)

    def currentNode(self):
        return self.selector.currentNode()

    def currentNodeID(self):
        return self.currentNode().GetID() if self.currentNode() else ""

    def setCurrentNode(self, node):
        self.selector.setCurrentNode(node)

    def currentSegmentID(self):
        index = self.segments.currentIndex
        return self._ids[index] if 0 <= index < len(self._ids) else ""

    def setCurrentSegmentID(self, segment_id):
        if segment_id in self._ids:
            self.segments.currentIndex = self._ids.index(segment_id)

    def _node_changed(self, node):
        segmentation = node.GetSegmentation() if node else None
        count = segmentation.GetNumberOfSegments() if segmentation else 0
        self._ids = [segmentation.GetNthSegmentID(i) for i in range(count)]
        self.segments.clear()
        for segment_id in self._ids:
            self.segments.addItem(segmentation.GetSegment(segment_id).GetName())
        self.currentNodeChanged.emit(node)


CTK = (ctkCollapsibleButton, ctkSliderWidget, ctkRangeWidget)
QMRML = (qMRMLWidget, qMRMLNodeComboBox, qMRMLSegmentSelectorWidget)
# Names that Slicer's own parameterNodeWrapper looks up; nothing of this panel is one of them.
ONLY_NAMES = {
    "ctk": "CheckBox CheckablePushButton ComboBox DoubleSlider DoubleSpinBox DoubleRangeSlider PathLineEdit "
    "DirectoryButton ColorPickerButton MessageBox",
    "slicer": "SliderWidget SpinBox RangeWidget",
}


# --- slicer.util ------------------------------------------------------------------------------------------------------


def loadUI(path):
    """Load a .ui file with Qt's loader; connect the scene as the file says, since PySide6 knows no vtkMRMLScene*."""
    loader = QtUiTools.QUiLoader()
    for cls in (*CTK, *QMRML):
        loader.registerCustomWidget(cls)
    file = QtCore.QFile(str(path))
    file.open(QtCore.QFile.OpenModeFlag.ReadOnly)
    tree = ElementTree.parse(path)
    connections = tree.findall("connections/connection")
    content = ElementTree.tostring(_without_connections(tree))
    buffer = QtCore.QBuffer()
    buffer.setData(content)
    buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
    panel = loader.load(buffer)
    if panel is None:
        raise RuntimeError(f"Could not load UI file: {path}\n{loader.errorString()}")
    for connection in connections:
        sender, signal, receiver, slot = (connection.findtext(k) for k in ("sender", "signal", "receiver", "slot"))
        found = panel if sender == panel.objectName else panel.findChild(QtWidgets.QWidget, sender)
        target = panel.findChild(QtWidgets.QWidget, receiver)
        getattr(found, signal.split("(")[0]).connect(getattr(target, slot.split("(")[0]))
    return panel


def _without_connections(tree):
    root = tree.getroot()
    for child in root.findall("connections"):
        root.remove(child)
    return root


def childWidgetVariables(panel):
    """Return an object with every named widget of the panel as attribute."""
    named = [w for w in panel.findChildren(QtWidgets.QWidget) if w.objectName and not w.objectName.startswith("qt_")]
    return SimpleNamespace(**{w.objectName: w for w in named})


def modulePath(name):
    return str(MODULE_FOLDER / f"{name}.py")


def reloadScriptedModule(name):
    """Execute the module's file again and put a new widget in the place of the old one, as Slicer does."""
    old = getattr(slicer.modules, f"{name}Widget")
    module = load_module(name)
    for child in old.parent.children():
        if child.isWidgetType():
            child.hide()
    old.cleanup()
    _let_go(old.parent)
    while old.parent.layout().count():
        old.parent.layout().takeAt(0)
    return open_module(module, name, old.parent)


def forget():
    """Forget answers, messages and addresses of an earlier test."""
    answers.clear()
    messages.clear()
    opened.clear()


def _keep(kind):
    def display(text, windowTitle=None, parent=None, **options):
        messages.append((kind, text))
        return bool(answers.get("confirm", True))

    return display


def _qt_class(name):
    for part in (QtCore, QtGui, QtWidgets, QtUiTools):
        if hasattr(part, name):
            return getattr(part, name)
    raise AttributeError(f"no Qt class {name}")


# --- setting up -------------------------------------------------------------------------------------------------------


def start_qt():
    """Make qt, ctk and the qMRML names importable; return the application. The second call only returns it."""
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    if "qt" in sys.modules:
        return application
    application.setStyle("fusion")
    QtCore.QObject.name = property(lambda self: self.objectName)
    qt = ModuleType("qt")
    qt.__getattr__ = _qt_class
    qt.QFileDialog, qt.QDesktopServices = _FileDialog, _DesktopServices
    ctk = ModuleType("ctk")
    for cls in CTK:
        setattr(ctk, cls.__name__, cls)
    for name in ONLY_NAMES["ctk"].split():
        setattr(ctk, f"ctk{name}", type(f"ctk{name}", (), {}))
    for cls in QMRML:
        setattr(slicer, cls.__name__, cls)
    for name in ONLY_NAMES["slicer"].split():
        setattr(slicer, f"qMRML{name}", type(f"qMRML{name}", (), {}))
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk
    slicer.util.loadUI, slicer.util.childWidgetVariables = loadUI, childWidgetVariables
    slicer.util.modulePath, slicer.util.reloadScriptedModule = modulePath, reloadScriptedModule
    for kind in ("error", "warning", "info", "confirmOkCancel", "confirmYesNo"):
        setattr(slicer.util, f"{kind}Display", _keep(kind))
    slicer.util.mainWindow = lambda: None
    return application


def attribute_style(*names):
    """Switch modules, by name, to PythonQt's attribute style."""
    for name in names:
        __feature__.set_selection(TRUE_PROPERTY, name)


def load_module(name="PerfusionCBV"):
    """Execute a scripted module's file as Slicer does, and return it."""
    import importlib.util

    _complete_application()
    if str(MODULE_FOLDER) not in sys.path:
        sys.path.insert(0, str(MODULE_FOLDER))
    attribute_style(
        name, "slicer_scripted", "slicer.parameterNodeWrapper", *(f"PerfusionCBVLib.gui.{p}" for p in ("panel",))
    )
    spec = importlib.util.spec_from_file_location(name, modulePath(name))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _complete_application():
    """Give the application object what Slicer's own ScriptedLoadableModule and i18n ask of it."""
    manager = SimpleNamespace(connect=lambda *_: None, disconnect=lambda *_: None)
    slicer.app.moduleManager, slicer.app.translate = lambda: manager, lambda context, text: text


def open_module(module, name="PerfusionCBV", parent=None):
    """Return the module's widget, set up in a parent as Slicer's module panel has one."""
    # Python's collector, coming while a panel is half built, meets what PySide6 has freed of the last one.
    gc.collect()
    gc.freeze()  # or every collection would go through all that was ever imported
    gc.disable()
    if parent is None:
        parent = qMRMLWidget()
        QtWidgets.QVBoxLayout(parent)
        parent.setMRMLScene(slicer.mrmlScene)
    parent.isEntered = True
    _complete_application()
    widget = getattr(module, f"{name}Widget")(parent)
    if not hasattr(slicer, "modules"):
        slicer.modules = SimpleNamespace()
    setattr(slicer.modules, f"{name}Widget", widget)
    widget.setup()
    return widget


def close_module(name="PerfusionCBV"):
    """Close the module's widget as the application does at its end."""
    widget = vars(slicer.modules).pop(f"{name}Widget", None)
    if widget is not None:
        widget.cleanup()
        _let_go(widget.parent)
        widget.parent.close()
        widget.parent.deleteLater()
        QtWidgets.QApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)
    gc.collect()
    gc.enable()


def _let_go(parent):
    """Take the scene from all widgets."""
    for widget in parent.findChildren(qMRMLWidget):
        widget.setMRMLScene(None)
