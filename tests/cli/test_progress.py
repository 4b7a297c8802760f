"""What a terminal shows of a run."""

from __future__ import annotations

from lib_lora_train.cli.progress import Terminal
from lib_lora_train.training.events import Encoding, GeneratingClassImages, Started


def test_the_place_of_the_class_images_is_told_when_they_are_drawn(capsys):
    with Terminal() as terminal:
        for done in range(3):
            terminal(GeneratingClassImages(done, 2, "/runs/cache/class-images/dog"))
        terminal(Encoding("images", 1, 4))
        terminal(Started(0, 10, 1, 4, 100))
    said = capsys.readouterr()
    assert said.out.count("class images are in /runs/cache/class-images/dog") == 1
    assert "generating class images" in said.err
    assert "encoding images" in said.err
