"""Substitutes for four Python modules of the Slicer application that slicer-core does not bring; for tests only.

`slicer.i18n`, `slicer.parameterNodeWrapper`, `slicer.ScriptedLoadableModule` and `slicer.packaging` are Python files of
the desktop application. `install_scripted()` puts small ones of the same names beside the real `slicer` of slicer-core:

- `tr` and `translate` return the text as it is.
- `parameterNodeWrapper` knows float, bool, str, Enum, FloatRange and node members, stores them in the real
  vtkMRMLScriptedModuleNode under the same names and in the same form as Slicer does (so that scenes agree), refuses
  wrong types and values beyond their range, and connects the widgets that `_CONNECTIONS` lists by their
  SlicerParameterName; any other pair of type and widget is an error, as in Slicer. Packs, lists, Union and QColor are
  missing.
- The base classes of module, widget, logic and test have what this module calls; no developer section but `onReload`.
- `packaging.pip_ensure` installs nothing: it raises for a requirement that is not met.

With PERFUSIONCBV_SLICER_PYTHON naming the folder `Base/Python` of a Slicer source tree, Slicer's own files are taken
instead (that needs the Qt substitutes of `qt_slicer`): the check that these substitutes don't lie.
"""

import enum
import importlib
import importlib.metadata
import os
import sys
import typing
import unittest
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import slicer
import vtk

NAMES = ("i18n", "parameterNodeWrapper", "ScriptedLoadableModule", "packaging")


def install_scripted() -> None:
    """Make the four modules importable as `slicer.NAME`; the second call does nothing."""
    real = os.environ.get("PERFUSIONCBV_SLICER_PYTHON")
    if "slicer.parameterNodeWrapper" in sys.modules:
        return
    if real:
        import qt_slicer

        qt_slicer.start_qt()
        slicer.__path__.append(str(Path(real) / "slicer"))
        for name in NAMES:
            setattr(slicer, name, importlib.import_module(f"slicer.{name}"))
        return
    contents = {
        "i18n": {"tr": lambda text: text, "translate": lambda context, text: text},
        "parameterNodeWrapper": _WRAPPER_NAMES,
        "ScriptedLoadableModule": {
            cls.__name__: cls
            for cls in (
                ScriptedLoadableModule,
                ScriptedLoadableModuleWidget,
                ScriptedLoadableModuleLogic,
                ScriptedLoadableModuleTest,
            )
        },
        "packaging": {"load_requirements": load_requirements, "pip_check": pip_check, "pip_ensure": pip_ensure},
    }
    for name in NAMES:
        module = ModuleType(f"slicer.{name}")
        vars(module).update(contents[name])
        sys.modules[module.__name__] = module
        setattr(slicer, name, module)


# --- slicer.ScriptedLoadableModule ------------------------------------------------------------------------------------


class ScriptedLoadableModule:
    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__

    def resourcePath(self, filename):
        return str(Path(self.parent.path).parent / "Resources" / filename)


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.parent = parent
        self.layout = parent.layout()

    def setup(self):
        pass

    def resourcePath(self, filename):
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def onReload(self):
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetName(self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        node.SetAttribute("ModuleName", self.moduleName)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def delayDisplay(self, message, requestedDelay=None, msec=None):
        pass


# --- slicer.packaging -------------------------------------------------------------------------------------------------


def load_requirements(path):
    lines = Path(path).read_text("utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith(("#", "-"))]


def pip_check(requirements):
    names = [requirements] if isinstance(requirements, str) else requirements
    for name in names:
        try:
            importlib.metadata.version(str(name).split(">=")[0])
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


def pip_ensure(requirements, **options):
    missing = [str(r) for r in requirements if not pip_check(r)]
    if missing:
        raise RuntimeError(f"the substitute installs nothing; missing: {', '.join(missing)}")


# --- slicer.parameterNodeWrapper --------------------------------------------------------------------------------------


@dataclass
class WithinRange:
    minimum: float
    maximum: float


@dataclass
class RangeBounds:
    minimum: float
    maximum: float


@dataclass
class Default:
    value: object


@dataclass
class FloatRange:
    minimum: float = 0.0
    maximum: float = 0.0


@dataclass
class _Member:
    """One annotated name of a wrapped class: how it is checked and kept in the parameter node."""

    name: str
    kind: type
    annotations: tuple
    default: object

    def find(self, annotation):
        return next((a for a in self.annotations if isinstance(a, annotation)), None)

    def check(self, value):
        kind = (int, float) if self.kind is float else self.kind
        nothing = value is None and issubclass(self.kind, slicer.vtkMRMLNode)
        if not nothing and (not isinstance(value, kind) or (self.kind is float and isinstance(value, bool))):
            raise TypeError(f"{self.name} must be {self.kind.__name__}, is {value!r}")
        allowed = self.find(WithinRange)
        if allowed and not allowed.minimum <= value <= allowed.maximum:
            raise ValueError(f"{self.name} = {value} lies outside {allowed}")

    def write(self, node, value):
        self.check(value)
        if issubclass(self.kind, slicer.vtkMRMLNode):
            node.SetParameter(self.name, "")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        elif self.kind is FloatRange:
            node.SetParameter(f"{self.name}.minimum", str(value.minimum))
            node.SetParameter(f"{self.name}.maximum", str(value.maximum))
        else:
            node.SetParameter(self.name, value.name if issubclass(self.kind, enum.Enum) else str(value))

    def read(self, node):
        if issubclass(self.kind, slicer.vtkMRMLNode):
            return node.GetNodeReference(self.name)
        if self.kind is FloatRange:
            ends = (node.GetParameter(f"{self.name}.{end}") for end in ("minimum", "maximum"))
            return FloatRange(*map(float, ends))
        text = node.GetParameter(self.name)
        if issubclass(self.kind, enum.Enum):
            return self.kind[text]
        return text == "True" if self.kind is bool else self.kind(text)

    def is_in(self, node):
        return bool(node.HasParameter(f"{self.name}.minimum" if self.kind is FloatRange else self.name))


def _members(cls):
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        kind, *annotations = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        known = (float, bool, str, FloatRange)
        if not (kind in known or issubclass(kind, enum.Enum | slicer.vtkMRMLNode)):
            raise TypeError(f"the substitute knows no parameter of type {kind}")
        empty = {float: 0.0, bool: False, str: ""}.get(kind)
        if issubclass(kind, enum.Enum):
            empty = next(iter(kind))
        given = next((a.value for a in annotations if isinstance(a, Default)), empty)
        yield _Member(name, kind, tuple(annotations), getattr(cls, name, given))


def parameterNodeWrapper(cls):
    """Give a class of annotated names typed properties that live in a vtkMRMLScriptedModuleNode."""
    members = {member.name: member for member in _members(cls)}

    class Wrapped(cls):
        allParameters = members

        def __init__(self, parameterNode):
            self.parameterNode = parameterNode
            self._guis = {}
            self._updating = False
            for member in members.values():
                if not member.is_in(parameterNode):
                    member.write(parameterNode, member.default)

        def connectGui(self, gui):
            found = {w.property("SlicerParameterName"): w for w in vars(gui).values()}
            return self.connectParametersToGui({name: w for name, w in found.items() if name})

        def connectParametersToGui(self, mapping):
            connected = {name: _connector(members[name], widget) for name, widget in mapping.items()}
            tag = len(self._guis)
            slots = []
            for name, (read, write, signal) in connected.items():
                write(getattr(self, name))
                slot = self._slot(name, read)
                signal.connect(slot)
                slots.append((signal, slot))
            observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._show(connected))
            self._guis[tag] = (slots, observer)
            return tag

        def _slot(self, name, read):
            def changed(*_):
                if not self._updating:
                    setattr(self, name, read())

            return changed

        def _show(self, connected):
            if self._updating:
                return
            self._updating = True
            try:
                for name, (_, write, _signal) in connected.items():
                    write(getattr(self, name))
            finally:
                self._updating = False

        def disconnectGui(self, tag):
            slots, observer = self._guis.pop(tag, ((), None))
            for signal, slot in slots:
                signal.disconnect(slot)
            if observer is not None:
                self.RemoveObserver(observer)

        def AddObserver(self, event, callback, priority=0.0):
            return self.parameterNode.AddObserver(event, callback, priority)

        def RemoveObserver(self, tag):
            self.parameterNode.RemoveObserver(tag)

        def StartModify(self):
            return self.parameterNode.StartModify()

        def EndModify(self, was):
            return self.parameterNode.EndModify(was)

        def Modified(self):
            self.parameterNode.Modified()

    for member in members.values():
        setattr(Wrapped, member.name, _property(member))
    Wrapped.__name__, Wrapped.__qualname__, Wrapped.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    return Wrapped


def _property(member):
    return property(
        lambda self: member.read(self.parameterNode), lambda self, value: member.write(self.parameterNode, value)
    )


def _connector(member, widget):
    """Return (read, write, signal) of a widget for a parameter."""
    for kind, widget_name, connect in _CONNECTIONS:
        if issubclass(member.kind, kind) and type(widget).__name__ == widget_name:
            return connect(member, widget)
    raise RuntimeError(f"no connection between {member.kind.__name__} ({member.name}) and {type(widget).__name__}")


def _attribute(widget, name):
    """Return how a property is read and written in PythonQt's way, as an attribute."""
    return lambda: getattr(widget, name), lambda value: setattr(widget, name, value)


def _checkable(member, widget):
    return *_attribute(widget, "checked"), widget.toggled


def _number(member, widget):
    limits = member.find(WithinRange)
    widget.minimum, widget.maximum = limits.minimum, limits.maximum
    return *_attribute(widget, "value"), widget.valueChanged


def _choice(member, widget):
    members = list(member.kind)
    widget.clear()
    for each in members:
        widget.addItem(member.kind.label(each))
    read, write = _attribute(widget, "currentIndex")
    return lambda: members[read()], lambda value: write(members.index(value)), widget.currentIndexChanged


def _range(member, widget):
    bounds = member.find(RangeBounds)
    if member.find(Default) is None:
        raise RuntimeError(f"{member.name}: Slicer's connector of ranges needs a Default annotation")
    widget.setRange(bounds.minimum, bounds.maximum)

    def read():
        return FloatRange(widget.minimumValue, widget.maximumValue)

    return read, lambda value: widget.setValues(value.minimum, value.maximum), widget.valuesChanged


def _node(member, widget):
    widget.nodeTypes = [member.kind().GetClassName()]
    return widget.currentNode, widget.setCurrentNode, widget.currentNodeChanged


_CONNECTIONS = (
    (bool, "QCheckBox", _checkable),
    (bool, "QPushButton", _checkable),
    (float, "QDoubleSpinBox", _number),
    (float, "ctkSliderWidget", _number),
    (enum.Enum, "QComboBox", _choice),
    (FloatRange, "ctkRangeWidget", _range),
    (slicer.vtkMRMLNode, "qMRMLNodeComboBox", _node),
)
_WRAPPER_NAMES = {cls.__name__: cls for cls in (WithinRange, RangeBounds, Default, FloatRange, parameterNodeWrapper)}
