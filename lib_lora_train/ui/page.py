"""The tab's components and what happens when they are used. All work is done by the desks; this is the wiring."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from lib_lora_train.config import GROUP_TITLES, CompareConfig, Field, TrainConfig, fields_of
from lib_lora_train.ui.answer import Answer, Seen, in_words, numbered
from lib_lora_train.ui.controls import control_of, shown
from lib_lora_train.ui.gradio_versions import browser_only, pressed_by_script, upload_folder
from lib_lora_train.ui.run_view import FOLLOW_HELP, beacon_html, status_html
from lib_lora_train.ui.runs_desk import FOLLOW, RunsDesk
from lib_lora_train.ui.settings_desk import SettingsDesk
from lib_lora_train.workshop import Workshop

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


_desks_of: weakref.WeakKeyDictionary[Workshop, tuple[SettingsDesk, RunsDesk]] = weakref.WeakKeyDictionary()


def _desks(workshop: Workshop) -> tuple[SettingsDesk, RunsDesk]:
    """The same for all pages of a process: what they began goes on when the interface is built anew."""
    if workshop not in _desks_of:
        _desks_of[workshop] = SettingsDesk(workshop), RunsDesk(workshop)
    return _desks_of[workshop]


class Page:
    """Builds the tab. Every part that changes has a name, under which the desks speak of it."""

    def __init__(self, workshop: Workshop, defaults: Mapping[str, Any]) -> None:
        self.place = workshop.place
        self.settings, self.runs = _desks(workshop)
        self.parts: dict[str, Any] = {}
        self._defaults = defaults
        self._mode = str(defaults.get("mode", TrainConfig().run.mode))

    def build(self) -> None:
        """Lays the tab out; to be called inside gr.Blocks."""
        with gr.Column(elem_id="lora_train_tab"):
            self.seen = gr.State({})
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
        self._part("beacon", gr.HTML(beacon_html({"busy": 0, "over": 0, "say": ""}), elem_classes=["lora_train_hidden"]))
        for name, elem_id in (("tick", "lora_train_tick"), ("replan", "lora_train_replan")):
            self._part(name, gr.Button(name, elem_id=elem_id, elem_classes=["lora_train_hidden"]), remembered=False)
        for name, elem_id in (("plot values", "lora_train_plot"), ("dropped", "lora_train_dropped"), ("heard", "lora_train_heard")):
            self._part(name, gr.Textbox(label=name, elem_id=elem_id, elem_classes=["lora_train_hidden"]), remembered=False)

    def _settings(self) -> None:
        fields = {field.name: field for field in self.settings.fields}
        with gr.Row():
            self._setting(fields["mode"], width=180)
        with gr.Row():
            self._setting(fields["name"], width=180)
            with gr.Column(min_width=180):
                names = self.settings.preset_names()
                info = "Settings for a kind of subject, to begin from."
                self._part("preset", gr.Dropdown(names, value=None, label="Preset", info=info), remembered=False)
        elsewhere = {"mode", "name", "preview_prompts", *(name for row in FIRST_NUMBERS for name in row)}
        for field in (field for name, field in fields.items() if name in self.settings.in_view - elsewhere):
            self._setting(field)
            if field.name == "images":
                self._part("drop zone", gr.HTML(DROP_ZONE))
                self._album()
        for row in FIRST_NUMBERS:
            with gr.Row():
                for name in row:
                    self._setting(fields[name], width=110)
        self._setting(fields["preview_prompts"], lines=2)
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
        with gr.Column(min_width=width, visible=field.facts.used_in(self._mode)) as box:
            self._control(field, lines)
        self._part(f"box {field.name}", box)

    def _control(self, field: Field, lines: int) -> None:
        control, value = control_of(field), self._defaults.get(field.name, field.default)
        facts: dict[str, Any] = {"value": shown(field, value), "label": control.label, "info": control.info or None}
        facts["elem_id"] = f"lora_train_{field.name}"
        if control.kind == "checkbox":
            component = gr.Checkbox(**facts)
        elif control.kind == "dropdown":
            component = gr.Dropdown(list(control.choices), **facts)
        elif control.kind == "number":
            component = gr.Number(step=control.step, **facts)
        else:
            component = gr.Textbox(lines=lines if control.kind == "lines" else 1, **facts)
        self._part(field.name, component, remembered=field.name != "mode")  # the rest of the page follows it
        self._part(f"note {field.name}", gr.HTML("", visible=False))

    def _album(self) -> None:
        with gr.Accordion("Images and captions", open=True, visible=False) as box:
            self._part("album title", gr.HTML())
            self._part("album", gr.Gallery(label="Images", columns=6, height=230, object_fit="contain", allow_preview=False, elem_id="lora_train_album"))
            with gr.Row():
                self._part("page back", gr.Button("Earlier images", size="sm", visible=False))
                self._part("page on", gr.Button("Later images", size="sm", visible=False))
            info = "Click an image to edit its caption; it is kept as NAME.txt beside the image."
            self._part("caption", gr.Textbox(label="Caption", info=info, lines=2, interactive=False), remembered=False)
            self._part("save caption", gr.Button("Save caption", size="sm", interactive=False))
            if self.place.describers:
                self._part("overwrite", gr.Checkbox(label="Replace captions that are there", value=False), remembered=False)
                with gr.Row():
                    for name in self.place.describers:
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
        self._part("previews", gr.Gallery(label="Previews, newest first", columns=4, height="auto", object_fit="contain", visible=False, elem_id="lora_train_previews"))
        self._part("followed", gr.Dropdown([FOLLOW], value=FOLLOW, label="Run in view", info=FOLLOW_HELP, visible=False), remembered=False)
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
                    self._part("strengths", gr.Textbox(usual, label=strengths.facts.label, info=strengths.facts.help, elem_id="lora_train_strengths"))
                with gr.Column(min_width=260):
                    self._part("compare prompts", gr.Textbox(label=prompts.facts.label, info=f"{prompts.facts.help} One in each line.", lines=2, elem_id="lora_train_compare_prompts"))
            with gr.Row():
                self._part("compare", gr.Button("Draw the grid", variant="primary", elem_id="lora_train_draw"))
                if self.place.lends_checkpoint:
                    self._part("to plot", gr.Button("Send to X/Y/Z plot", elem_id="lora_train_to_plot"))
            self._part("compare notice", gr.HTML(visible=False))
            self._part("compare progress", gr.HTML(visible=False, elem_id="lora_train_drawing"))
            with gr.Column(visible=False) as result:
                self._part("reason", gr.HTML())
                self._part("tag", gr.Textbox(label="The tag of the best epoch", info="For the prompt; 0.8 is its strength.", interactive=False, show_copy_button=True, elem_id="lora_train_tag"), remembered=False)
                self._part("grid", gr.Gallery(label="Epochs against strengths", columns=1, height="auto", object_fit="contain", preview=False, elem_id="lora_train_grid"))
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
        album = ["album", "album title", "album box", "page back", "page on", "caption", "save caption"]
        for component in raw:
            component.change(**browser_only(CHANGED), **QUIET)

        planning = self._event(lambda *a: settings.plan(a[:-1], a[-1]), [*names, "seen"], ["plan", *notes, *album])
        planned = self.parts["replan"].click(**planning, **pressed_by_script())
        planned.then(**browser_only(PLANNED), **QUIET)
        planned.then(**self._event(settings.timed, ["seen"], ["plan"]))
        started = self._on("train", lambda *a: settings.start(a[:-1], a[-1]), [*names, "seen"], ["plan", *notes])
        started.then(**browser_only(LOOK), **QUIET)

        by_mode = self.settings.show_mode(None)
        self.parts["mode"].change(**self._event(settings.show_mode, ["mode"], list(by_mode)))

        preset_values = [name for name in names if name in settings.preset_fields()]
        self.parts["preset"].input(**self._event(settings.load_preset, ["preset"], preset_values))
        self._on("save preset", lambda *a: settings.save_preset(a[0], a[1:]), ["preset name", *names], ["preset", "preset name"])
        self._on("delete preset", settings.delete_preset, ["preset"], ["preset"])

        def uploaded(files: str, name: str, images: str) -> Answer:
            return settings.uploaded(files, upload_folder(), name, images)

        stored = self.parts["dropped"].input(**self._event(uploaded, ["dropped", "name", "images"], ["dropped", "images"]))
        stored.then(**browser_only(CHANGED), **QUIET)
        self._on("page back", lambda s: settings.turn_by(-1, s), ["seen"], album)
        self._on("page on", lambda s: settings.turn_by(1, s), ["seen"], album)
        self._on("save caption", settings.save_caption, ["caption", "seen"], ["album"])
        self._wire_picking()
        for describer in self.place.describers:

            def caption_all(images: str, trigger: str, overwrite: bool, describer: str = describer) -> Answer:
                return settings.caption_all(describer, images, trigger, overwrite)

            begun = self._on(f"describe {describer}", caption_all, ["images", "trigger", "overwrite"], [])
            begun.then(**browser_only(LOOK), **QUIET)

        for button, action in (("pause", runs.pause_or_go_on), ("stop", runs.stop)):
            self._on(button, action, ["seen"], []).then(**browser_only(LOOK), **QUIET)
        asking = ["discard question", "discard box"]
        self._on("discard", runs.ask_to_discard, ["seen"], asking)
        self._on("discard yes", runs.discard, ["seen"], asking).then(**browser_only(LOOK), **QUIET)
        self._on("discard no", runs.keep, ["seen"], asking)
        self._on("resume", runs.resume, ["unfinished"], []).then(**browser_only(LOOK), **QUIET)
        self.parts["followed"].input(**browser_only(LOOK), **QUIET)
        drawn = self._on("compare", runs.compare, ["compare run", "strengths", "compare prompts"], [], notice="compare notice")
        drawn.then(**browser_only(LOOK), **QUIET)
        if "to plot" in self.parts:
            sent = self._on("to plot", runs.plot_values, ["compare run"], ["plot values"], notice="compare notice")
            sent.then(**browser_only(TO_PLOT), inputs=[self.parts["plot values"]], **QUIET)

        ticking = ["status", "pause", "stop", "discard", "run buttons", "curve", "previews", "followed", "queue", "beacon"]
        ticking += ["unfinished", "unfinished box", "compare run", "compare progress", "result box", "grid", "reason", "tag"]
        ticking += [*(["caption progress", *album] if self.place.describers else [])]
        asking = ["heard", "followed", "compare run", "unfinished", "seen"]
        ticked = self.parts["tick"].click(**self._event(self._tick, asking, [*ticking, "heard"]), **pressed_by_script())
        ticked.then(**browser_only(TICKED), **QUIET)

    def _tick(self, heard: str, wanted: str | None, compared: str | None, unfinished: str | None, seen: Seen) -> Answer:
        number = numbered(seen, heard)
        chosen = {"compare run": compared, "unfinished": unfinished}
        answer = self.runs.tick(wanted, chosen, seen, also_busy=self.settings.busy)
        return answer | (self.settings.captioning_news(seen) if self.place.describers else {}) | number

    def _wire_picking(self) -> None:
        outputs = [self.parts["caption"], self.parts["save caption"], self.parts["notice"], self.seen]

        def pick(seen: Seen, event: gr.SelectData) -> dict[Any, Any]:
            return self._updates(in_words(self.settings.pick, event.index, seen), seen)

        self.parts["album"].select(pick, inputs=[self.seen], outputs=outputs, api_name=False, **QUIET)

    def _on(self, name: str, handler: Callable[..., Answer], inputs: list[str], outputs: list[str], notice: str = "notice") -> Any:
        return self.parts[name].click(**self._event(handler, inputs, outputs, notice))

    def _event(self, handler: Callable[..., Answer], inputs: list[str], outputs: list[str], notice: str = "notice") -> dict[str, Any]:
        """Arguments of an event whose handler speaks of parts by name. It always may show a notice."""
        takes_seen = inputs[-1:] == ["seen"]
        components = [self.parts[name] for name in inputs if name != "seen"]

        def handle(*values: Any) -> dict[Any, Any]:
            *given, seen = values
            answer = in_words(handler, *(values if takes_seen else given))
            if notice != "notice" and "notice" in answer:
                answer[notice] = answer.pop("notice")
            return self._updates(answer, seen)

        shown_in = [self.parts[name] for name in dict.fromkeys([*outputs, notice])]
        return {
            "fn": handle, "inputs": [*components, self.seen], "outputs": [*shown_in, self.seen], "api_name": False, **QUIET,
        }  # fmt: skip

    def _updates(self, answer: Answer, seen: Seen) -> dict[Any, Any]:
        return {self.parts[name]: gr.update(**change) for name, change in answer.items()} | {self.seen: seen}
