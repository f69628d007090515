"""The panel's section that sends to a PACS: its fields, kept in the application's settings, and its slots."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from PerfusionCBVLib.gui.dicom_objects import Server

DICOM = "dicom"
"""What the work needs installed."""

SETTINGS = "PerfusionCBV/Send/"
"""An archive belongs to the computer and its network: its address is not saved with scenes, which travel."""


class SendSection:
    """Fields and slots of the section.

    Parameters
    ----------
    widget : PerfusionCBVWidget
    """

    def __init__(self, widget: Any) -> None:
        self._widget = widget
        ui = widget.ui
        ui.sendWayComboBox.addItem(_("DICOM (C-STORE)"))
        ui.sendWayComboBox.addItem(_("DICOMweb (STOW-RS)"))
        self._certificates = ""
        self._source = ""
        self._outputs: dict[str, Any] = {}
        self._busy = False
        self._show_server(stored_server())
        for field in (ui.hostLineEdit, ui.calledTitleLineEdit, ui.callingTitleLineEdit, ui.webAddressLineEdit):
            field.textChanged.connect(self._changed)
        ui.sendWayComboBox.currentIndexChanged.connect(self._changed)
        ui.portSpinBox.valueChanged.connect(self._changed)
        ui.tlsCheckBox.toggled.connect(self._changed)
        for button, slot in (
            (ui.certificatesButton, self.choose_certificates),
            (ui.testConnectionButton, self.test_connection),
            (ui.sendButton, self.send),
        ):
            button.clicked.connect(slot)

    def server(self) -> Server:
        """Return what the fields say."""
        ui = self._widget.ui
        return Server(
            web=ui.sendWayComboBox.currentIndex == 1,
            host=ui.hostLineEdit.text.strip(),
            port=ui.portSpinBox.value,
            called_aet=ui.calledTitleLineEdit.text.strip(),
            calling_aet=ui.callingTitleLineEdit.text.strip(),
            tls=ui.tlsCheckBox.checked,
            certificates=self._certificates,
            address=ui.webAddressLineEdit.text.strip(),
        )

    def choose_certificates(self) -> None:
        """Ask for the certificates that the server's must descend from; cancelling goes back to the computer's own."""
        kinds = _("Certificates") + " (*.pem *.crt *.cer)"
        title = _("Certificates to trust; Cancel: those of this computer")
        self._certificates = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", kinds)
        self._changed()

    def test_connection(self) -> None:
        """Ask the server whether it answers."""
        server, logic = self.server(), self._widget.logic
        answered = self._widget.run(lambda progress: logic.testConnection(server, progress=progress) or True, DICOM)
        text = _("{server} answers.") if answered else _("{server} does not answer.")
        self._widget.ui.sendLabel.text = text.format(server=server.name)

    def send(self) -> None:
        """Ask for the DICOM folder of the series and for consent, make the objects and send them."""
        server, widget = self.server(), self._widget
        title = _("DICOM folder that this series came from")
        source = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title, self._source)
        question = _("DICOM objects with the patient's name will be sent to {server}. Send them?")
        if not source or not slicer.util.confirmOkCancelDisplay(question.format(server=server.name)):
            return
        self._source = source
        node, logic = widget.parameters.inputNode, widget.logic
        taken = widget.run(lambda progress: logic.send(node, source, server, progress=progress), DICOM)
        text = _("{count} objects are stored at {server}.").format(count=taken, server=server.name)
        widget.ui.sendLabel.text = text if taken else _("Not all was stored at {server}.").format(server=server.name)
        if taken:
            widget.ui.statusLabel.text = text

    def show(self, outputs: dict[str, Any], busy: bool) -> None:
        """Show the fields of the chosen way, and enable what can be done."""
        self._outputs, self._busy = outputs, busy
        ui, server = self._widget.ui, self.server()
        for name in ("host", "calledTitle", "callingTitle"):
            getattr(ui, f"{name}Label").visible = getattr(ui, f"{name}LineEdit").visible = not server.web
        ui.portSpinBox.visible = ui.tlsCheckBox.visible = not server.web
        ui.webAddressLabel.visible = ui.webAddressLineEdit.visible = server.web
        encrypted = server.address.startswith("https://") if server.web else server.tls
        name = Path(server.certificates).name
        ui.certificatesButton.text = name or _("Server's certificates...")
        ui.certificatesButton.enabled = encrypted
        tip = _(
            "File with the certificates that the server's must descend from, where this computer does not know them"
        )
        ui.certificatesButton.toolTip = tip if encrypted else _("Only with encryption: switch TLS on first.")
        wait = _("Wait for the running work to end, or cancel it.") if busy else ""
        no_echo = _("DICOMweb has no test of its own; press Send.") if server.web else ""
        no_map = "" if "rcbv" in outputs else _("Press Apply first: there is no map of this series yet.")
        for button, why, text in (
            (ui.testConnectionButton, wait or no_echo or server.problem(), _("Ask the server for an answer (C-ECHO)")),
            (
                ui.sendButton,
                wait or no_map or server.problem(),
                _("Send maps, regions, measures and pictures; you are asked first"),
            ),
        ):
            button.enabled, button.toolTip = not why, why or text

    def _show_server(self, server: Server) -> None:
        ui = self._widget.ui
        ui.sendWayComboBox.currentIndex = int(server.web)
        ui.hostLineEdit.text, ui.portSpinBox.value = server.host, server.port
        ui.calledTitleLineEdit.text, ui.callingTitleLineEdit.text = server.called_aet, server.calling_aet
        ui.tlsCheckBox.checked, ui.webAddressLineEdit.text = server.tls, server.address
        self._certificates = server.certificates

    def _changed(self, _value: Any = None) -> None:
        store_server(self.server())
        self._widget.ui.sendLabel.text = ""
        self.show(self._outputs, self._busy)


def stored_server() -> Server:
    """Return the server that was entered last on this computer."""
    settings, known = slicer.app.settings(), Server()
    for field in fields(Server):
        value = settings.value(SETTINGS + field.name)
        if value is not None:  # what comes back from a file is text
            kind = type(getattr(known, field.name))
            known = replace(known, **{field.name: value if kind is str else kind(int(value))})
    return known


def store_server(server: Server) -> None:
    """Keep a server in the application's settings; there is no password among its fields."""
    for field in fields(Server):
        value = getattr(server, field.name)
        slicer.app.settings().setValue(SETTINGS + field.name, value if isinstance(value, str) else int(value))
