"""The tab's events: which handler is called when, with which parts, and which parts it may update."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr

from lib_lora_train.ui.components import Components
from lib_lora_train.ui.gradio_versions import browser_only, clicked_by_script, upload_folder
from lib_lora_train.ui.page_state import PageState
from lib_lora_train.ui.panels import Panels
from lib_lora_train.ui.parts import AnyPart, Part, captioner_button, control, problems_of
from lib_lora_train.ui.updates import Updates, updates_or_message

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
"""Every event is handled at once; what takes long runs in a thread of the server."""

GALLERY = (
    Part.GALLERY,
    Part.GALLERY_TITLE,
    Part.GALLERY_BOX,
    Part.PREVIOUS_IMAGES,
    Part.NEXT_IMAGES,
    Part.CAPTION,
    Part.SAVE_CAPTION,
)
RUN_LISTS = (Part.SELECTED_RUN, Part.COMPARISON_RUN, Part.UNFINISHED)
POLLED = (
    Part.ACK,
    Part.POLL_STATUS,
    Part.STATUS,
    Part.PAUSE,
    Part.STOP,
    Part.DISCARD,
    Part.RUN_BUTTONS,
    Part.CURVE,
    Part.SAMPLES,
    Part.QUEUE,
    Part.UNFINISHED_BOX,
    *RUN_LISTS,
    Part.GRID_PROGRESS,
    Part.GRID_BOX,
    Part.GRID,
    Part.RECOMMENDATION,
    Part.TAG,
    Part.CAPTIONING_PROGRESS,
    *GALLERY,
)
DISCARD_QUESTION = (Part.DISCARD_QUESTION, Part.DISCARD_BOX)


def _call(function: str, arguments: str = "") -> str:
    """JavaScript that calls a function of javascript/lora_train.js."""
    return f"({arguments}) => {{ if (window.loraTrain) window.loraTrain.{function}({arguments}); return []; }}"


class Events:
    """Connects the components to the panels' handlers."""

    def __init__(self, components: Components, panels: Panels) -> None:
        self._components, self._panels = components, panels
        self._controls = [control(name) for name in panels.settings.names]

    def connect(self) -> None:
        """Adds all events; call it inside gr.Blocks, after the layout."""
        self._connect_settings()
        self._connect_presets()
        self._connect_gallery()
        self._connect_run()
        self._connect_comparison()
        self._connect_polling()

    # Settings and plan

    def _connect_settings(self) -> None:
        settings = self._panels.settings
        for part in self._controls:
            self._components[part].change(**browser_only(_call("settingsChanged")), **QUIET)
        method = self._components[control("training_method")]
        by_method = settings.show_method(None)
        shown = method.change(**self._event(settings.show_method, [control("training_method")], by_method))
        self._then(shown, "localize")

        inputs: list[AnyPart] = [*self._controls, Part.PAGE_STATE]
        problems = [problems_of(name) for name in settings.names]
        updated = self._components[Part.UPDATE_PLAN].click(
            **self._event(self._update_plan, inputs, [Part.PLAN, *problems, *GALLERY]), **clicked_by_script()
        )
        self._then(updated, "planUpdated")
        measuring = self._event(settings.measure, [Part.PAGE_STATE], [Part.PLAN])
        self._then(self._components[Part.MEASURE].click(**measuring, **clicked_by_script()), "measured")
        started = self._on_click(Part.TRAIN, self._start, inputs, [Part.PLAN, *problems])
        self._then(started, "poll")

    def _update_plan(self, *inputs: Any) -> Updates:
        *contents, page = inputs
        updates = self._panels.settings.plan(contents, page)
        return updates | self._panels.gallery.show_folder(self._panels.settings.dataset_folder(page), page)

    def _start(self, *inputs: Any) -> Updates:
        *contents, page = inputs
        return self._panels.settings.start(contents, page)

    def _connect_presets(self) -> None:
        presets = self._panels.presets
        in_presets = [control(name) for name in presets.settings_in_presets]
        self._components[Part.PRESET].input(**self._event(presets.load, [Part.PRESET], in_presets))

        def save(name: str | None, *contents: Any) -> Updates:
            return presets.save(name, contents)

        updated = [Part.PRESET, Part.PRESET_NAME]
        self._on_click(Part.SAVE_PRESET, save, [Part.PRESET_NAME, *self._controls], updated)
        self._on_click(Part.DELETE_PRESET, presets.delete, [Part.PRESET], updated)

    # Images and captions

    def _connect_gallery(self) -> None:
        gallery, components = self._panels.gallery, self._components
        folder = control("dataset_folder")

        def store(files: str, name: str, dataset_folder: str) -> Updates:
            return gallery.store_uploads(files, upload_folder(), name, dataset_folder)

        inputs: list[AnyPart] = [Part.UPLOADED, control("name"), folder]
        stored = components[Part.UPLOADED].input(**self._event(store, inputs, [Part.UPLOADED, folder]))
        self._then(stored, "settingsChanged")
        for part, pages in ((Part.PREVIOUS_IMAGES, -1), (Part.NEXT_IMAGES, 1)):
            self._on_click(part, lambda page, pages=pages: gallery.turn(pages, page), [Part.PAGE_STATE], GALLERY)
        self._on_click(Part.SAVE_CAPTION, gallery.save_caption, [Part.CAPTION, Part.PAGE_STATE], [Part.GALLERY])
        components[Part.GALLERY].select(**self._select_image())
        for captioner in gallery.service.environment.captioners:
            self._connect_captioner(captioner)

    def _connect_captioner(self, captioner: str) -> None:
        def caption_all(dataset_folder: str, trigger_word: str, overwrite: bool) -> Updates:
            return self._panels.gallery.caption_all(captioner, dataset_folder, trigger_word, overwrite)

        inputs: list[AnyPart] = [control("dataset_folder"), control("trigger_word"), Part.OVERWRITE_CAPTIONS]
        self._then(self._on_click(captioner_button(captioner), caption_all, inputs), "poll")

    def _select_image(self) -> dict[str, Any]:
        """Arguments of an event with gr.SelectData, which Gradio recognizes by the handler's annotation."""

        def select(page: PageState, event: gr.SelectData) -> dict[Any, Any]:
            return self._gradio_updates(updates_or_message(self._panels.gallery.select, event.index, page), page)

        outputs = self._components.of([Part.CAPTION, Part.SAVE_CAPTION, Part.NOTICE, Part.PAGE_STATE])
        inputs = self._components.of([Part.PAGE_STATE])
        return {"fn": select, "inputs": inputs, "outputs": outputs, "api_name": False, **QUIET}

    # Runs

    def _connect_run(self) -> None:
        runs, page = self._panels.runs, [Part.PAGE_STATE]
        self._then(self._on_click(Part.PAUSE, runs.pause_or_unpause, page), "poll")
        self._then(self._on_click(Part.STOP, runs.stop, page), "poll")
        self._on_click(Part.DISCARD, runs.ask_to_discard, page, DISCARD_QUESTION)
        self._on_click(Part.CANCEL_DISCARD, runs.cancel_discard, page, DISCARD_QUESTION)
        self._then(self._on_click(Part.CONFIRM_DISCARD, runs.discard, page, DISCARD_QUESTION), "poll")
        self._then(self._on_click(Part.RESUME, runs.resume, [Part.UNFINISHED, Part.PAGE_STATE]), "poll")
        self._components[Part.SELECTED_RUN].input(**browser_only(_call("poll")), **QUIET)

    def _connect_comparison(self) -> None:
        comparison, notice = self._panels.comparison, Part.COMPARISON_NOTICE
        inputs = [Part.COMPARISON_RUN, Part.STRENGTHS, Part.COMPARISON_PROMPTS, Part.PAGE_STATE]
        self._then(self._on_click(Part.GENERATE_GRID, comparison.generate, inputs, notice=notice), "poll")
        if Part.SEND_TO_PLOT in self._components:
            send, values = comparison.send_to_plot, [Part.PLOT_VALUES]
            sent_inputs = [Part.COMPARISON_RUN, Part.COMPARISON_PROMPTS]
            sent = self._on_click(Part.SEND_TO_PLOT, send, sent_inputs, values, notice=notice)
            fill_in = browser_only(_call("sendToPlot", "values"))
            sent.then(**fill_in, inputs=self._components.of(values), **QUIET)

    def _connect_polling(self) -> None:
        inputs = [Part.ACK, *RUN_LISTS, Part.PAGE_STATE]
        event = self._event(self._poll, inputs, POLLED)
        self._then(self._components[Part.POLL].click(**event, **clicked_by_script()), "polled")

    def _poll(self, ack: str | None, *inputs: Any) -> Updates:
        *selected, page = inputs
        panels = self._panels
        updates = page.next_poll(ack)
        is_busy = panels.gallery.is_busy or panels.comparison.is_busy
        updates |= panels.runs.poll(dict(zip(RUN_LISTS, selected, strict=True)), page, is_busy=is_busy)
        return updates | panels.comparison.poll(page) | panels.gallery.captioning_progress(page)

    # Gradio

    def _on_click(
        self,
        part: AnyPart,
        handler: Callable[..., Updates],
        inputs: Iterable[AnyPart],
        outputs: Iterable[AnyPart] = (),
        notice: Part = Part.NOTICE,
    ) -> Any:
        return self._components[part].click(**self._event(handler, inputs, outputs, notice))

    def _event(
        self,
        handler: Callable[..., Updates],
        inputs: Iterable[AnyPart],
        outputs: Iterable[AnyPart],
        notice: Part = Part.NOTICE,
    ) -> dict[str, Any]:
        """Arguments of an event. Its handler may update the `outputs`, and show a message in the part `notice`."""
        parts = list(inputs)
        takes_state = Part.PAGE_STATE in parts  # then it is the last

        def handle(*values: Any) -> dict[Any, Any]:
            updates = updates_or_message(handler, *(values if takes_state else values[:-1]))
            if notice is not Part.NOTICE and Part.NOTICE in updates:
                updates[notice] = updates.pop(Part.NOTICE)
            return self._gradio_updates(updates, values[-1])

        return {
            "fn": handle,
            "inputs": self._components.of([*parts, Part.PAGE_STATE]),
            "outputs": self._components.of([*outputs, notice, Part.PAGE_STATE]),
            "api_name": False,
            **QUIET,
        }

    def _gradio_updates(self, updates: Updates, page: PageState) -> dict[Any, Any]:
        changes: dict[Any, Any] = {self._components[part]: gr.update(**change) for part, change in updates.items()}
        return changes | {self._components[Part.PAGE_STATE]: page}

    @staticmethod
    def _then(event: Any, function: str) -> None:
        """Calls a function of javascript/lora_train.js after an event."""
        event.then(**browser_only(_call(function)), **QUIET)
