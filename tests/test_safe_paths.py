from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from lib_lora_train.safe_paths import PathPolicy, policy_of, readable_folder, safe_name, shown


@pytest.fixture
def root(tmp_path):
    """The extension's dataset folder with a dataset in it, and a secret beside it."""
    (tmp_path / "datasets" / "cat").mkdir(parents=True)
    (tmp_path / "datasets-of-others").mkdir()
    (tmp_path / "secret").mkdir()
    return tmp_path / "datasets"


@pytest.fixture
def strangers(root):
    return PathPolicy(allow_any=False, roots=[root])


class TestWhoMayReadAnyFolder:
    @pytest.fixture
    def policy(self, tmp_path):
        def make(api=False, environment=None, **options):
            return policy_of(SimpleNamespace(**options), tmp_path, api, environment or {})

        return make

    def test_the_only_user_of_the_computer(self, policy, tmp_path):
        options = {"listen": False, "share": False, "ngrok": None, "server_name": None, "gradio_auth": None}
        assert policy(**options) == PathPolicy(True, [tmp_path])

    @pytest.mark.parametrize(
        "option",
        [{"listen": True}, {"share": True}, {"ngrok": "token"}, {"server_name": "0.0.0.0"}, {"server_name": "pc"}],
    )
    def test_not_a_stranger(self, policy, option):
        assert not policy(**option).allow_any

    @pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
    def test_a_name_that_only_this_computer_reaches(self, policy, name):
        assert policy(server_name=name).allow_any

    @pytest.mark.parametrize("variable", [{"GRADIO_SERVER_NAME": "0.0.0.0"}, {"GRADIO_SHARE": "True"}])
    def test_gradios_own_variables_open_the_server_too(self, policy, variable):
        assert not policy(environment=variable).allow_any

    def test_who_has_logged_in(self, policy):
        assert policy(listen=True, gradio_auth="me:secret").allow_any

    @pytest.mark.parametrize("auth", ["", ",", "me", "me:", ":secret"])
    def test_a_login_needs_a_name_and_a_password(self, policy, auth):
        assert not policy(listen=True, gradio_auth=auth).allow_any

    def test_a_login_from_a_file(self, policy, tmp_path):
        (tmp_path / "auth").write_text("\nme:secret, you:other\n")
        assert policy(listen=True, gradio_auth_path=str(tmp_path / "auth")).allow_any

    @pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\xff"])
    def test_a_file_without_one(self, policy, tmp_path, content):
        (tmp_path / "auth").write_bytes(content)
        assert not policy(listen=True, gradio_auth_path=str(tmp_path / "auth")).allow_any
        assert not policy(listen=True, gradio_auth_path=str(tmp_path / "nowhere")).allow_any

    def test_the_api_has_a_login_of_its_own(self, policy):
        assert policy(api=True, listen=True, api_auth="me:secret").allow_any
        assert not policy(api=True, listen=True, gradio_auth="me:secret").allow_any
        assert not policy(api=False, listen=True, api_auth="me:secret").allow_any


class TestOnOnesOwnComputer:
    def test_any_folder_that_is_there(self, root, tmp_path):
        assert readable_folder(str(tmp_path / "secret"), PathPolicy(True)) == tmp_path / "secret"

    @pytest.mark.parametrize("form", ['"{}"', "'{}'", "  {}\n", "{}/", "{}/../secret/."])
    def test_as_people_paste_it(self, tmp_path, root, form):
        assert readable_folder(form.format(tmp_path / "secret"), PathPolicy(True)) == tmp_path / "secret"

    def test_the_home_folder(self, tmp_path, root, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        assert readable_folder("~/secret", PathPolicy(True)) == tmp_path / "secret"

    def test_a_relative_path_is_one_of_the_dataset_folder_first(self, root, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "cat").mkdir()
        assert readable_folder("cat", PathPolicy(True, [root])) == root / "cat"
        assert readable_folder("secret", PathPolicy(True, [root])) == tmp_path / "secret"

    def test_what_is_wrong_is_said_under_the_settings_name(self, tmp_path, complaint):
        (tmp_path / "file").touch()
        assert complaint(readable_folder, "", PathPolicy(True)) == "dataset_folder: Enter the folder of the images."
        assert "does not exist" in complaint(readable_folder, str(tmp_path / "x"), PathPolicy(True))
        message = complaint(readable_folder, str(tmp_path / "file"), PathPolicy(True), field="regularization_folder")
        assert message.startswith("regularization_folder: The folder ")
        assert "is a file" in message

    @pytest.mark.parametrize("text", ["~nobody-of-this-name/x", "x" * 5000, "a\ud800b"])
    def test_what_cannot_be_a_path(self, complaint, text):
        assert complaint(readable_folder, text, PathPolicy(True)).startswith("dataset_folder: The folder ")

    @pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
    def test_links_in_a_circle(self, tmp_path, complaint):
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        assert "dataset_folder: The folder" in complaint(readable_folder, str(tmp_path / "a"), PathPolicy(True))

    @pytest.mark.parametrize("text", ["/tmp\0/x", "cat\0", "a\nb", "a\x1b[31mb"])
    def test_marks_that_cannot_be_seen(self, complaint, text):
        assert "invisible characters" in complaint(readable_folder, text, PathPolicy(True))


class TestOnAServerThatStrangersReach:
    @pytest.mark.parametrize("text", ["cat", "./cat", "cat/", "cat/../cat", '"cat"'])
    def test_the_dataset_folder_may_be_read(self, root, strangers, text):
        assert readable_folder(text, strangers) == root / "cat"

    def test_also_by_its_full_path(self, root, strangers):
        assert readable_folder(str(root / "cat"), strangers) == root / "cat"

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
    def test_nothing_else(self, strangers, complaint, text):
        assert "login" in complaint(readable_folder, text, strangers)

    def test_nothing_else_by_its_full_path(self, tmp_path, strangers, complaint):
        for name in ("secret", "datasets-of-others", "."):
            assert "login" in complaint(readable_folder, str(tmp_path / name), strangers)

    @pytest.mark.parametrize(
        "text", ["~", "~/secret", "~root", "\\\\server\\share", "C:\\Users", "C:cat", "\\\\?\\C:\\", "NUL"]
    )
    def test_no_form_of_another_system_leads_out(self, strangers, complaint, text):
        assert complaint(readable_folder, text, strangers).startswith("dataset_folder: ")

    def test_home_is_not_looked_up(self, root, strangers, monkeypatch):
        monkeypatch.setenv("HOME", str(root / "cat"))
        (root / "~").mkdir()
        assert readable_folder("~", strangers) == root / "~"

    def test_whether_a_path_outside_exists_is_not_told(self, tmp_path, strangers, complaint):
        there, not_there = (
            complaint(readable_folder, str(tmp_path / name), strangers) for name in ("secret", "nothing")
        )
        assert there == not_there

    def test_a_path_outside_is_not_even_looked_at(self, tmp_path, strangers, complaint, monkeypatch):
        looked_at = []
        real = os.path.realpath
        monkeypatch.setattr(os.path, "realpath", lambda path, **_: looked_at.append(str(path)) or real(path))
        complaint(readable_folder, "//server/share", strangers)
        assert {path for path in looked_at if "server" in path} == set()

    @pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
    def test_a_link_out_of_it_is_no_way_out(self, root, tmp_path, strangers, complaint):
        (root / "link").symlink_to(tmp_path / "secret")
        (root / "up").symlink_to("..")
        for text in ("link", "up", "up/secret", str(root / "link")):
            assert "login" in complaint(readable_folder, text, strangers)

    @pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
    def test_a_dataset_folder_that_is_itself_a_link(self, root, tmp_path):
        (tmp_path / "shortcut").symlink_to(root)
        policy = PathPolicy(False, [tmp_path / "shortcut"])
        assert readable_folder("cat", policy) == root / "cat"
        assert readable_folder(str(root / "cat"), policy) == root / "cat"

    def test_what_is_not_there_inside_is_said(self, strangers, complaint):
        assert (
            complaint(readable_folder, "dog", strangers)
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
    def test_all_else_is_made_harmless(self, name, safe):
        assert safe_name(name) == safe

    def test_two_ways_to_write_a_letter_are_one(self):
        assert safe_name("cafe\u0301") == safe_name("caf\u00e9")

    def test_a_long_name_is_cut_between_letters(self):
        assert safe_name("猫" * 200) == "猫" * 40
        assert safe_name("a" * 119 + " ." + "b") == "a" * 119

    def test_the_fallback(self):
        assert safe_name("...", fallback="dataset") == "dataset"


def test_what_is_shown_of_a_text_is_one_short_line_without_tags():
    assert shown("<img src=x>\n\u202e") == "(img src=x)??"
    assert len(shown("x" * 1000)) == 200
