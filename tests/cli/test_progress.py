"""What the terminal shows while a run is training."""

from __future__ import annotations

from lib_lora_train.cli.progress import Terminal
from lib_lora_train.training.events import Encoding, GeneratingClassImages, Started


def test_the_folder_of_the_class_images_is_printed_once(capsys):
    with Terminal() as terminal:
        for done in range(3):
            terminal(GeneratingClassImages(done, 2, "/runs/cache/class-images/dog"))
        terminal(Encoding("images", 1, 4))
        terminal(Started(0, 10, 1, 4, 100))
    printed = capsys.readouterr()
    assert printed.out.count("class images are in /runs/cache/class-images/dog") == 1
    assert "generating class images" in printed.err
    assert "encoding images" in printed.err
