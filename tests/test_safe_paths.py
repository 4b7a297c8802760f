"""Folders that may be read, and safe names."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from lib_lora_train.safe_paths import PathPolicy, policy_of, readable_folder, safe_name, shown


@pytest.fixture
def root(tmp_path):
    """The extension's dataset folder with a dataset in it, and a secret file beside it."""
    (tmp_path / "datasets" / "cat").mkdir(parents=True)
    (tmp_path / "datasets-of-others").mkdir()
    (tmp_path / "secret").mkdir()
    return tmp_path / "datasets"


@pytest.fixture
def restricted(root):
    return PathPolicy(allow_any=False, roots=[root])


class TestPolicy:
    @pytest.fixture
    def policy(self, tmp_path):
        def make(api=False, environment=None, **options):
            return policy_of(SimpleNamespace(**options), tmp_path, api, environment or {})

        return make

    def test_allows_any_folder_on_ones_own_computer(self, policy, tmp_path):
        options = {"listen": False, "share": False, "ngrok": None, "server_name": None, "gradio_auth": None}
        assert policy(**options) == PathPolicy(True, [tmp_path])

    @pytest.mark.parametrize(
        "option",
        [{"listen": True}, {"share": True}, {"ngrok": "token"}, {"server_name": "0.0.0.0"}, {"server_name": "pc"}],
    )
    def test_allows_only_the_dataset_folder_if_others_reach_the_server(self, policy, option):
        assert not policy(**option).allow_any

    @pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
    def test_allows_any_folder_for_a_local_server_name(self, policy, name):
        assert policy(server_name=name).allow_any

    @pytest.mark.parametrize("variable", [{"GRADIO_SERVER_NAME": "0.0.0.0"}, {"GRADIO_SHARE": "True"}])
    def test_reads_gradios_environment_variables(self, policy, variable):
        assert not policy(environment=variable).allow_any

    def test_allows_any_folder_after_a_login(self, policy):
        assert policy(listen=True, gradio_auth="me:secret").allow_any

    @pytest.mark.parametrize("auth", ["", ",", "me", "me:", ":secret"])
    def test_a_login_needs_a_name_and_a_password(self, policy, auth):
        assert not policy(listen=True, gradio_auth=auth).allow_any

    def test_reads_a_login_from_a_file(self, policy, tmp_path):
        (tmp_path / "auth").write_text("\nme:secret, you:other\n")
        assert policy(listen=True, gradio_auth_path=str(tmp_path / "auth")).allow_any

    @pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\xff"])
    def test_ignores_a_file_without_a_login(self, policy, tmp_path, content):
        (tmp_path / "auth").write_bytes(content)
        assert not policy(listen=True, gradio_auth_path=str(tmp_path / "auth")).allow_any
        assert not policy(listen=True, gradio_auth_path=str(tmp_path / "nowhere")).allow_any

    def test_of_the_api_depends_on_its_own_login(self, policy):
        assert policy(api=True, listen=True, api_auth="me:secret").allow_any
        assert not policy(api=True, listen=True, gradio_auth="me:secret").allow_any
        assert not policy(api=False, listen=True, api_auth="me:secret").allow_any


class TestAnyFolderAllowed:
    def test_reads_any_folder_that_exists(self, root, tmp_path):
        assert readable_folder(str(tmp_path / "secret"), PathPolicy(True)) == tmp_path / "secret"

    @pytest.mark.parametrize("form", ['"{}"', "'{}'", "  {}\n", "{}/", "{}/../secret/."])
    def test_accepts_quotes_and_spaces_around_a_path(self, tmp_path, root, form):
        assert readable_folder(form.format(tmp_path / "secret"), PathPolicy(True)) == tmp_path / "secret"

    def test_expands_the_home_folder(self, tmp_path, root, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        assert readable_folder("~/secret", PathPolicy(True)) == tmp_path / "secret"

    def test_looks_for_a_relative_path_in_the_dataset_folder_first(self, root, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "cat").mkdir()
        assert readable_folder("cat", PathPolicy(True, [root])) == root / "cat"
        assert readable_folder("secret", PathPolicy(True, [root])) == tmp_path / "secret"

    def test_reports_problems_under_the_settings_name(self, tmp_path, complaint):
        (tmp_path / "file").touch()
        assert (
            complaint(readable_folder, "", PathPolicy(True))
            == "dataset_folder: Enter the folder that contains the images."
        )
        assert "does not exist" in complaint(readable_folder, str(tmp_path / "x"), PathPolicy(True))
        message = complaint(readable_folder, str(tmp_path / "file"), PathPolicy(True), field="regularization_folder")
        assert message.startswith("regularization_folder: The folder ")
        assert "is a file" in message

    @pytest.mark.parametrize("text", ["~nobody-of-this-name/x", "x" * 5000, "a\ud800b"])
    def test_refuses_text_that_is_not_a_path(self, complaint, text):
        assert complaint(readable_folder, text, PathPolicy(True)).startswith("dataset_folder: The folder ")

    @pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
    def test_refuses_circular_links(self, tmp_path, complaint):
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        assert "dataset_folder: The folder" in complaint(readable_folder, str(tmp_path / "a"), PathPolicy(True))

    @pytest.mark.parametrize("text", ["/tmp\0/x", "cat\0", "a\nb", "a\x1b[31mb"])
    def test_refuses_invisible_characters(self, complaint, text):
        assert "invisible characters" in complaint(readable_folder, text, PathPolicy(True))


class TestOnlyTheDatasetFolderAllowed:
    @pytest.mark.parametrize("text", ["cat", "./cat", "cat/", "cat/../cat", '"cat"'])
    def test_reads_folders_in_the_dataset_folder(self, root, restricted, text):
        assert readable_folder(text, restricted) == root / "cat"

    def test_reads_them_by_their_full_path(self, root, restricted):
        assert readable_folder(str(root / "cat"), restricted) == root / "cat"

    @pytest.mark.parametrize(
        "text",
        [
            "..",
            "../secret",
            "cat/../../secret",
            "/",
            "/etc",
            "//server/share",
            "../datasets-of-others",
            "cat/../../datasets/../secret",
        ],
    )
    def test_refuses_everything_else(self, restricted, complaint, text):
        assert "login" in complaint(readable_folder, text, restricted)

    def test_refuses_everything_else_by_its_full_path(self, tmp_path, restricted, complaint):
        for name in ("secret", "datasets-of-others", "."):
            assert "login" in complaint(readable_folder, str(tmp_path / name), restricted)

    @pytest.mark.parametrize(
        "text", ["~", "~/secret", "~root", "\\\\server\\share", "C:\\Users", "C:cat", "\\\\?\\C:\\", "NUL"]
    )
    def test_refuses_paths_of_other_systems(self, restricted, complaint, text):
        assert complaint(readable_folder, text, restricted).startswith("dataset_folder: ")

    def test_does_not_expand_the_home_folder(self, root, restricted, monkeypatch):
        monkeypatch.setenv("HOME", str(root / "cat"))
        (root / "~").mkdir()
        assert readable_folder("~", restricted) == root / "~"

    def test_does_not_reveal_whether_a_path_outside_exists(self, tmp_path, restricted, complaint):
        there, not_there = (
            complaint(readable_folder, str(tmp_path / name), restricted) for name in ("secret", "nothing")
        )
        assert there == not_there

    def test_does_not_access_a_path_outside(self, tmp_path, restricted, complaint, monkeypatch):
        looked_at = []
        real = os.path.realpath
        monkeypatch.setattr(os.path, "realpath", lambda path, **_: looked_at.append(str(path)) or real(path))
        complaint(readable_folder, "//server/share", restricted)
        assert {path for path in looked_at if "server" in path} == set()

    @pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
    def test_refuses_a_link_to_a_folder_outside(self, root, tmp_path, restricted, complaint):
        (root / "link").symlink_to(tmp_path / "secret")
        (root / "up").symlink_to("..")
        for text in ("link", "up", "up/secret", str(root / "link")):
            assert "login" in complaint(readable_folder, text, restricted)

    @pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
    def test_reads_a_dataset_folder_that_is_itself_a_link(self, root, tmp_path):
        (tmp_path / "shortcut").symlink_to(root)
        policy = PathPolicy(False, [tmp_path / "shortcut"])
        assert readable_folder("cat", policy) == root / "cat"
        assert readable_folder(str(root / "cat"), policy) == root / "cat"

    def test_says_that_a_folder_inside_does_not_exist(self, restricted, complaint):
        assert (
            complaint(readable_folder, "dog", restricted)
            == "dataset_folder: The folder dog does not exist. Check the path."
        )


class TestSafeNames:
    @pytest.mark.parametrize("name", ["cat", "my cat 2", "кошка", "猫", "หมา", "हिन्दी", "café", "a.b-c_d+e", "x (1)"])
    def test_letters_of_every_script_stay(self, name):
        assert safe_name(name) == name

    @pytest.mark.parametrize(
        ("name", "safe"),
        [
            ("../../etc/passwd", "passwd"),
            ("C:\\Users\\me\\cat", "cat"),
            ("..", "image"),
            ("", "image"),
            ("///", "image"),
            (".hidden", "hidden"),
            ("-rf", "rf"),
            ("cat. . ", "cat"),
            ('<b>"cat"</b>', "b_"),
            ("<lora:cat:1>", "_lora_cat_1_"),
            ("a'b\"c`d$e&f|g", "a_b_c_d_e_f_g"),
            ("a\0b\nc", "a_b_c"),
            ("abc\u202egnp", "abc_gnp"),
            ("con", "_con"),
            ("NUL.v2", "_NUL.v2"),
            ("com1", "_com1"),
            ("???", "image"),
        ],
    )
    def test_other_characters_are_replaced(self, name, safe):
        assert safe_name(name) == safe

    def test_two_encodings_of_a_letter_give_one_name(self):
        assert safe_name("cafe\u0301") == safe_name("caf\u00e9")

    def test_a_long_name_is_cut_between_letters(self):
        assert safe_name("猫" * 200) == "猫" * 40
        assert safe_name("a" * 119 + " ." + "b") == "a" * 119

    def test_nothing_left_gives_the_fallback(self):
        assert safe_name("...", fallback="dataset") == "dataset"


def test_shown_text_is_one_short_line_without_tags():
    assert shown("<img src=x>\n\u202e") == "(img src=x)??"
    assert len(shown("x" * 1000)) == 200
