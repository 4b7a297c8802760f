"""The dataset's images and captions."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from lib_lora_train.ui.components import Components
from lib_lora_train.ui.parts import Part, captioner_button

# Not gr.File: that of Gradio 3.41 cancels an upload in progress when another event on the page returns.
DROP_ZONE = (
    '<div id="lora_train_drop"><label for="lora_train_files">Drop images and .txt captions here, or choose files</label>'
    '<input id="lora_train_files" type="file" multiple><p id="lora_train_upload_status" role="status"></p></div>'
)


def add_gallery(components: Components, captioners: Sequence[str]) -> None:
    """The drop zone, and the images of the dataset folder with their captions."""
    components.add(Part.DROP_ZONE, gr.HTML(DROP_ZONE))
    with gr.Accordion("Dataset images", open=True, visible=False) as box:
        components.add(Part.GALLERY_TITLE, gr.HTML())
        gallery = gr.Gallery(
            show_label=False,
            columns=6,
            height=230,
            object_fit="contain",
            allow_preview=False,
            elem_id="lora_train_gallery",
        )
        components.add(Part.GALLERY, gallery)
        with gr.Row():
            components.add(Part.PREVIOUS_IMAGES, gr.Button("Previous images", size="sm", visible=False))
            components.add(Part.NEXT_IMAGES, gr.Button("Next images", size="sm", visible=False))
        info = "Click an image to edit its caption. It is saved as NAME.txt next to the image."
        caption = gr.Textbox(label="Caption", info=info, lines=2, interactive=False)
        components.add(Part.CAPTION, caption, saved=False)
        components.add(Part.SAVE_CAPTION, gr.Button("Save caption", size="sm", interactive=False))
        if captioners:
            _add_captioners(components, captioners)
    components.add(Part.GALLERY_BOX, box)


def _add_captioners(components: Components, captioners: Sequence[str]) -> None:
    overwrite = gr.Checkbox(label="Overwrite existing captions", value=False)
    components.add(Part.OVERWRITE_CAPTIONS, overwrite, saved=False)
    with gr.Row():
        for name in captioners:
            components.add(captioner_button(name), gr.Button(f"Caption all with {name}", size="sm"))
    components.add(Part.CAPTIONING_PROGRESS, gr.HTML(visible=False))
