"""The tab's components and what happens when they are used. All work is done by the desks; this is the wiring."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from lib_lora_train.config import GROUP_TITLES, CompareConfig, Field, TrainConfig, fields_of
from lib_lora_train.service import TrainingService
from lib_lora_train.ui.controls import control_of, shown
from lib_lora_train.ui.gradio_versions import browser_only, pressed_by_script, upload_folder
from lib_lora_train.ui.run_view import FOLLOW_HELP, poll_status_html, status_html
from lib_lora_train.ui.runs_panel import FOLLOW, RunsPanel
from lib_lora_train.ui.settings_panel import SettingsPanel
from lib_lora_train.ui.updates import PageState, Updates, in_words, next_sequence

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
"""Every click is answered at once: what takes long goes on in a thread of the server."""

FIRST_NUMBERS = (("resolution", "epochs", "batch_size"), ("rank", "learning_rate"))
"""How the numbers that most people set are laid out."""

# Not gr.File: that of Gradio 3.41 forgets an upload under way whenever anything else on the page is answered.
DROP_ZONE = """<div id="lora_train_drop"><label for="lora_train_files">Drop images, and .txt captions, here, or choose files</label>
<input id="lora_train_files" type="file" multiple><p id="lora_train_uploading" role="status"></p></div>"""
LIVE_REGION = '<div id="lora_train_live" role="status" aria-live="polite" class="lora_train_unseen"></div>'
PLANNED = "() => { if (window.loraTrain) window.loraTrain.planned(); return []; }"
CHANGED = "() => { if (window.loraTrain) window.loraTrain.changed(); return []; }"
LOOK = "() => { if (window.loraTrain) window.loraTrain.look(); return []; }"
TICKED = "() => { if (window.loraTrain) window.loraTrain.ticked(); return []; }"
TO_PLOT = "(values) => { if (window.loraTrain) window.loraTrain.toPlot(values); return []; }"


_panels_of: weakref.WeakKeyDictionary[TrainingService, tuple[SettingsPanel, RunsPanel]] = weakref.WeakKeyDictionary()


def _panels(service: TrainingService) -> tuple[SettingsPanel, RunsPanel]:
    """The same for all pages of a process: what they began goes on when the interface is built anew."""
    if service not in _panels_of:
        _panels_of[service] = SettingsPanel(service), RunsPanel(service)
    return _panels_of[service]


class Page:
    """Builds the tab. Every part that changes has a name, under which the desks speak of it."""

    def __init__(self, service: TrainingService, defaults: Mapping[str, Any]) -> None:
        self.environment = service.environment
        self.settings, self.runs = _panels(service)
        self.parts: dict[str, Any] = {}
        self._defaults = defaults
        self._mode = str(defaults.get("training_method", TrainConfig().run.training_method))

    def build(self) -> None:
        """Lays the tab out; to be called inside gr.Blocks."""
        with gr.Column(elem_id="lora_train_tab"):
            self.page_state = gr.State({})
            self._hidden()
            with gr.Row():
                with gr.Column(scale=1, min_width=400):
                    self._settings()
                with gr.Column(scale=1, min_width=400):
                    self._run()
            self._comparison()
        self._wire()

    # Layout

    def _hidden(self) -> None:
        """What the browser side presses and reads; style.css keeps it out of sight."""
        gr.HTML(LIVE_REGION)
        self._part(
            "beacon", gr.HTML(poll_status_html({"busy": 0, "over": 0, "say": ""}), elem_classes=["lora_train_hidden"])
        )
        for name, elem_id in (("tick", "lora_train_tick"), ("replan", "lora_train_replan")):
            self._part(name, gr.Button(name, elem_id=elem_id, elem_classes=["lora_train_hidden"]), remembered=False)
        for name, elem_id in (
            ("plot values", "lora_train_plot"),
            ("dropped", "lora_train_dropped"),
            ("heard", "lora_train_heard"),
        ):
            self._part(
                name, gr.Textbox(label=name, elem_id=elem_id, elem_classes=["lora_train_hidden"]), remembered=False
            )

    def _settings(self) -> None:
        fields = {field.name: field for field in self.settings.fields}
        with gr.Row():
            self._setting(fields["training_method"], width=180)
        with gr.Row():
            self._setting(fields["name"], width=180)
            with gr.Column(min_width=180):
                names = self.settings.preset_names()
                info = "Settings for a kind of subject, to begin from."
                self._part("preset", gr.Dropdown(names, value=None, label="Preset", info=info), remembered=False)
        elsewhere = {"training_method", "name", "sample_prompts", *(name for row in FIRST_NUMBERS for name in row)}
        for field in (field for name, field in fields.items() if name in self.settings.in_view - elsewhere):
            self._setting(field)
            if field.name == "dataset_folder":
                self._part("drop zone", gr.HTML(DROP_ZONE))
                self._gallery()
        for row in FIRST_NUMBERS:
            with gr.Row():
                for name in row:
                    self._setting(fields[name], width=110)
        self._setting(fields["sample_prompts"], lines=2)
        for group, title in GROUP_TITLES.items():
            if others := self.settings.more_about(group):
                with gr.Accordion(f"More about {title}", open=False) as box:
                    self._grid(others)
                self._part(f"group {group}", box)
        with gr.Accordion("Save or delete a preset", open=False):
            info = "The present settings, without name, images and words."
            self._part("preset name", gr.Textbox(label="Save the settings as", info=info), remembered=False)
            with gr.Row():
                self._part("save preset", gr.Button("Save preset"))
                self._part("delete preset", gr.Button("Delete the chosen preset"))

    def _grid(self, fields: Sequence[Field]) -> None:
        with gr.Row():
            for field in fields:
                self._setting(field, width=220)

    def _setting(self, field: Field, width: int = 320, lines: int = 3) -> None:
        """The control of a setting, and under it the place for what is wrong with it, where the mode uses it."""
        with gr.Column(min_width=width, visible=field.info.used_by(self._mode)) as box:
            self._control(field, lines)
        self._part(f"box {field.name}", box)

    def _control(self, field: Field, lines: int) -> None:
        control, value = control_of(field), self._defaults.get(field.name, field.default)
        info: dict[str, Any] = {"value": shown(field, value), "label": control.label, "info": control.info or None}
        info["elem_id"] = f"lora_train_{field.name}"
        if control.kind == "checkbox":
            component = gr.Checkbox(**info)
        elif control.kind == "dropdown":
            component = gr.Dropdown(list(control.choices), **info)
        elif control.kind == "number":
            component = gr.Number(step=control.step, **info)
        else:
            component = gr.Textbox(lines=lines if control.kind == "lines" else 1, **info)
        self._part(field.name, component, remembered=field.name != "training_method")  # the rest of the page follows it
        self._part(f"note {field.name}", gr.HTML("", visible=False))

    def _gallery(self) -> None:
        with gr.Accordion("Images and captions", open=True, visible=False) as box:
            self._part("album title", gr.HTML())
            self._part(
                "album",
                gr.Gallery(
                    label="Images",
                    columns=6,
                    height=230,
                    object_fit="contain",
                    allow_preview=False,
                    elem_id="lora_train_album",
                ),
            )
            with gr.Row():
                self._part("page back", gr.Button("Earlier images", size="sm", visible=False))
                self._part("page on", gr.Button("Later images", size="sm", visible=False))
            info = "Click an image to edit its caption; it is kept as NAME.txt beside the image."
            self._part("caption", gr.Textbox(label="Caption", info=info, lines=2, interactive=False), remembered=False)
            self._part("save caption", gr.Button("Save caption", size="sm", interactive=False))
            if self.environment.captioners:
                self._part(
                    "overwrite", gr.Checkbox(label="Replace captions that are there", value=False), remembered=False
                )
                with gr.Row():
                    for name in self.environment.captioners:
                        self._part(f"describe {name}", gr.Button(f"Caption all with {name}", size="sm"))
                self._part("caption progress", gr.HTML(visible=False))
        self._part("album box", box)

    def _run(self) -> None:
        self._part("plan", gr.HTML(elem_id="lora_train_plan"))
        self._part("train", gr.Button("Train", variant="primary", elem_id="lora_train_train"))
        # Above everything that grows and shrinks: a button that moves while it is pressed is not pressed.
        with gr.Row(visible=False) as buttons:
            self._part("pause", gr.Button("Pause", interactive=False, elem_id="lora_train_pause"))
            self._part("stop", gr.Button("Stop and keep", interactive=False, elem_id="lora_train_stop"))
            self._part("discard", gr.Button("Discard…", interactive=False, elem_id="lora_train_discard"))
        self._part("run buttons", buttons)
        self._part("notice", gr.HTML(visible=False, elem_id="lora_train_notice"))
        with gr.Column(visible=False) as box:
            self._part("discard question", gr.HTML())
            with gr.Row():
                self._part("discard yes", gr.Button("Yes, remove it", variant="stop", elem_id="lora_train_discard_yes"))
                self._part("discard no", gr.Button("No, keep it"))
        self._part("discard box", box)
        self._part("status", gr.HTML(status_html(None), elem_id="lora_train_status"))
        self._part("curve", gr.HTML(visible=False, elem_id="lora_train_curve"))
        self._part(
            "previews",
            gr.Gallery(
                label="Previews, newest first",
                columns=4,
                height="auto",
                object_fit="contain",
                visible=False,
                elem_id="lora_train_previews",
            ),
        )
        self._part(
            "followed",
            gr.Dropdown([FOLLOW], value=FOLLOW, label="Run in view", info=FOLLOW_HELP, visible=False),
            remembered=False,
        )
        self._part("queue", gr.HTML(visible=False, elem_id="lora_train_queue"))
        with gr.Row(visible=False) as unfinished:
            info = "Runs that did not come to their end."
            self._part("unfinished", gr.Dropdown([], label="Unfinished runs", info=info, scale=3), remembered=False)
            self._part("resume", gr.Button("Go on with it", scale=1, min_width=120))
        self._part("unfinished box", unfinished)

    def _comparison(self) -> None:
        options = {field.name: field for field in fields_of(CompareConfig)}
        strengths, prompts = options["strengths"], options["prompts"]
        with gr.Accordion("Compare epochs", open=False, elem_id="lora_train_compare"):
            with gr.Row():
                with gr.Column(min_width=260):
                    info = "Each of its epochs is a row."
                    self._part("compare run", gr.Dropdown([], label="Run", info=info), remembered=False)
                with gr.Column(min_width=260):
                    usual = ", ".join(f"{value:g}" for value in strengths.default)
                    self._part(
                        "strengths",
                        gr.Textbox(
                            usual, label=strengths.info.label, info=strengths.info.help, elem_id="lora_train_strengths"
                        ),
                    )
                with gr.Column(min_width=260):
                    self._part(
                        "compare prompts",
                        gr.Textbox(
                            label=prompts.info.label,
                            info=f"{prompts.info.help} One in each line.",
                            lines=2,
                            elem_id="lora_train_compare_prompts",
                        ),
                    )
            with gr.Row():
                self._part("compare", gr.Button("Draw the grid", variant="primary", elem_id="lora_train_draw"))
                if self.environment.shares_checkpoint:
                    self._part("to plot", gr.Button("Send to X/Y/Z plot", elem_id="lora_train_to_plot"))
            self._part("compare notice", gr.HTML(visible=False))
            self._part("compare progress", gr.HTML(visible=False, elem_id="lora_train_drawing"))
            with gr.Column(visible=False) as result:
                self._part("reason", gr.HTML())
                self._part(
                    "tag",
                    gr.Textbox(
                        label="The tag of the best epoch",
                        info="For the prompt; 0.8 is its strength.",
                        interactive=False,
                        show_copy_button=True,
                        elem_id="lora_train_tag",
                    ),
                    remembered=False,
                )
                self._part(
                    "grid",
                    gr.Gallery(
                        label="Epochs against strengths",
                        columns=1,
                        height="auto",
                        object_fit="contain",
                        preview=False,
                        elem_id="lora_train_grid",
                    ),
                )
            self._part("result box", result)

    def _part(self, name: str, component: Any, *, remembered: bool = True) -> None:
        """Names a component. A WebUI remembers in ui-config.json what is not excluded."""
        self.parts[name] = component
        if not remembered:
            component.do_not_save_to_config = True

    # Wiring

    def _wire(self) -> None:
        settings, runs = self.settings, self.runs
        raw = [self.parts[field.name] for field in settings.fields]
        names = [field.name for field in settings.fields]
        notes = [f"note {name}" for name in names]
        gallery = ["album", "album title", "album box", "page back", "page on", "caption", "save caption"]
        for component in raw:
            component.change(**browser_only(CHANGED), **QUIET)

        planning = self._event(lambda *a: settings.plan(a[:-1], a[-1]), [*names, "seen"], ["plan", *notes, *gallery])
        planned = self.parts["replan"].click(**planning, **pressed_by_script())
        planned.then(**browser_only(PLANNED), **QUIET)
        planned.then(**self._event(settings.timed, ["seen"], ["plan"]))
        started = self._on("train", lambda *a: settings.start(a[:-1], a[-1]), [*names, "seen"], ["plan", *notes])
        started.then(**browser_only(LOOK), **QUIET)

        by_mode = self.settings.show_method(None)
        self.parts["training_method"].change(**self._event(settings.show_method, ["training_method"], list(by_mode)))

        preset_values = [name for name in names if name in settings.preset_fields()]
        self.parts["preset"].input(**self._event(settings.load_preset, ["preset"], preset_values))
        self._on(
            "save preset",
            lambda *a: settings.save_preset(a[0], a[1:]),
            ["preset name", *names],
            ["preset", "preset name"],
        )
        self._on("delete preset", settings.delete_preset, ["preset"], ["preset"])

        def uploaded(files: str, name: str, images: str) -> Updates:
            return settings.uploaded(files, upload_folder(), name, images)

        stored = self.parts["dropped"].input(
            **self._event(uploaded, ["dropped", "name", "dataset_folder"], ["dropped", "dataset_folder"])
        )
        stored.then(**browser_only(CHANGED), **QUIET)
        self._on("page back", lambda s: settings.turn_by(-1, s), ["seen"], gallery)
        self._on("page on", lambda s: settings.turn_by(1, s), ["seen"], gallery)
        self._on("save caption", settings.save_caption, ["caption", "seen"], ["album"])
        self._wire_picking()
        for captioner in self.environment.captioners:

            def caption_all(images: str, trigger_word: str, overwrite: bool, captioner: str = captioner) -> Updates:
                return settings.caption_all(captioner, images, trigger_word, overwrite)

            begun = self._on(f"describe {captioner}", caption_all, ["dataset_folder", "trigger_word", "overwrite"], [])
            begun.then(**browser_only(LOOK), **QUIET)

        for button, action in (("pause", runs.pause_or_go_on), ("stop", runs.stop)):
            self._on(button, action, ["seen"], []).then(**browser_only(LOOK), **QUIET)
        asking = ["discard question", "discard box"]
        self._on("discard", runs.ask_to_discard, ["seen"], asking)
        self._on("discard yes", runs.discard, ["seen"], asking).then(**browser_only(LOOK), **QUIET)
        self._on("discard no", runs.keep, ["seen"], asking)
        self._on("resume", runs.resume, ["unfinished"], []).then(**browser_only(LOOK), **QUIET)
        self.parts["followed"].input(**browser_only(LOOK), **QUIET)
        drawn = self._on(
            "compare", runs.compare, ["compare run", "strengths", "compare prompts"], [], notice="compare notice"
        )
        drawn.then(**browser_only(LOOK), **QUIET)
        if "to plot" in self.parts:
            sent = self._on("to plot", runs.plot_values, ["compare run"], ["plot values"], notice="compare notice")
            sent.then(**browser_only(TO_PLOT), inputs=[self.parts["plot values"]], **QUIET)

        ticking = [
            "status",
            "pause",
            "stop",
            "discard",
            "run buttons",
            "curve",
            "previews",
            "followed",
            "queue",
            "beacon",
        ]
        ticking += [
            "unfinished",
            "unfinished box",
            "compare run",
            "compare progress",
            "result box",
            "grid",
            "reason",
            "tag",
        ]
        ticking += [*(["caption progress", *gallery] if self.environment.captioners else [])]
        asking = ["heard", "followed", "compare run", "unfinished", "seen"]
        ticked = self.parts["tick"].click(**self._event(self._tick, asking, [*ticking, "heard"]), **pressed_by_script())
        ticked.then(**browser_only(TICKED), **QUIET)

    def _tick(
        self, ack: str, wanted: str | None, compared: str | None, unfinished: str | None, page_state: PageState
    ) -> Updates:
        number = next_sequence(page_state, ack)
        chosen = {"compare run": compared, "unfinished": unfinished}
        updates = self.runs.tick(wanted, chosen, page_state, also_busy=self.settings.busy)
        return updates | (self.settings.captioning_news(page_state) if self.environment.captioners else {}) | number

    def _wire_picking(self) -> None:
        outputs = [self.parts["caption"], self.parts["save caption"], self.parts["notice"], self.page_state]

        def pick(page_state: PageState, event: gr.SelectData) -> dict[Any, Any]:
            return self._updates(in_words(self.settings.pick, event.index, page_state), page_state)

        self.parts["album"].select(pick, inputs=[self.page_state], outputs=outputs, api_name=False, **QUIET)

    def _on(
        self, name: str, handler: Callable[..., Updates], inputs: list[str], outputs: list[str], notice: str = "notice"
    ) -> Any:
        return self.parts[name].click(**self._event(handler, inputs, outputs, notice))

    def _event(
        self, handler: Callable[..., Updates], inputs: list[str], outputs: list[str], notice: str = "notice"
    ) -> dict[str, Any]:
        """Arguments of an event whose handler speaks of parts by name. It always may show a notice."""
        takes_seen = inputs[-1:] == ["seen"]
        components = [self.parts[name] for name in inputs if name != "seen"]

        def handle(*values: Any) -> dict[Any, Any]:
            *given, page_state = values
            updates = in_words(handler, *(values if takes_seen else given))
            if notice != "notice" and "notice" in updates:
                updates[notice] = updates.pop("notice")
            return self._updates(updates, page_state)

        shown_in = [self.parts[name] for name in dict.fromkeys([*outputs, notice])]
        return {
            "fn": handle,
            "inputs": [*components, self.page_state],
            "outputs": [*shown_in, self.page_state],
            "api_name": False,
            **QUIET,
        }

    def _updates(self, updates: Updates, page_state: PageState) -> dict[Any, Any]:
        return {self.parts[name]: gr.update(**change) for name, change in updates.items()} | {
            self.page_state: page_state
        }
