"""The SDXL variant's second tokenizer: the vocabulary's words with the same token ids as in CLIP's own tokenizer.

WebUIs always use CLIP's tokenizer for OpenCLIP encoders, so this one must agree with it. Of CLIP's 48894 merges it has
only those that make up the vocabulary's words, each with the id of its token. All other words become letters.
"""

from __future__ import annotations

from pathlib import Path

from tools.checkpoints.vocabulary import END, LENGTH, START, byte_letters, write_tokenizer_files

VOCABULARY = 49408
"""Number of CLIP's tokens; the last two are start and end."""

PAD = "!"
"""Token 0, OpenCLIP's padding."""

WIDTH = 32

_MERGES = """
    i n 512, t h 513, a n 514, r e 515, a r 516, e r 517, th e</w> 518, in g</w> 519, o u 520, o n 521, s t 522,
    o r 523, o n</w> 525, a l 526, e r</w> 528, i t 529, i n</w> 530, t o</w> 531, r o 532, i s</w> 533, l e 534,
    i c 535, a t</w> 536, an d</w> 537, e d</w> 538, o f</w> 539, o r</w> 541, i l 543, e l 544, a c 546, o m 547,
    a m 548, l o 549, a n</w> 550, a y</w> 551, s h 552, r i 553, l i 554, f or</w> 556, r a 559, o l 562, u r 565,
    a l</w> 566, d i 570, l a 572, w h 573, e n</w> 576, m a 577, n o 578, l e</w> 579, ou r</w> 581, i r 582,
    g h 583, w it 584, i t</w> 585, wit h</w> 593, h o 606, s e</w> 611, m e 613, al l</w> 615, m o 617, a r</w> 625,
    gh t</w> 630, ar e</w> 631, s s</w> 632, c h</w> 634, ou n 636, on e</w> 637, b y</w> 638, d o 639, k e 643,
    h e 651, l u 664, q u 666, v er</w> 667, o f 684, a p 688, g re 689, t ing</w> 694, p er 703, g r 709,
    g e</w> 710, in e</w> 715, b i 717, ac k</w> 725, ur e</w> 726, re d</w> 736, c ol 754, w n</w> 757, p a 765,
    no t</w> 783, m an</w> 786, ar t</w> 794, it e</w> 802, ac e</w> 804, p ho 816, s on</w> 825, b l 833, p la 841,
    h u 845, oun d</w> 853, n o</w> 871, ac k 877, an g 883, ol d</w> 896, p ic 901, le d</w> 912, t ri 924,
    b ro 927, t ure</w> 941, t w 966, in k</w> 967, t re 975, s m 978, u m</w> 1008, h ou 1011, b ri 1036,
    lo w</w> 1042, ro w</w> 1044, lo w 1049, ic k</w> 1068, w om 1087, d ra 1114, pho to</w> 1125, ou t 1130,
    f il 1142, l ine</w> 1148, c ro 1192, bi g</w> 1205, hou se</w> 1212, tw o</w> 1237, l in 1254, b lu 1263,
    t in 1310, al e</w> 1336, w ing</w> 1340, d ar 1377, li ght</w> 1395, st y 1421, me di 1436, bl ack</w> 1449,
    c y 1470, s il 1556, v al</w> 1560, st ar</w> 1565, s of 1571, wh ite</w> 1579, l ar 1592, th re 1607,
    c ar</w> 1615, p le</w> 1619, s qu 1653, b ack 1663, sh ar 1669, pic ture</w> 1674, f ace</w> 1710, p ur 1727,
    blu e</w> 1746, sty le</w> 1844, gre en</w> 1901, do g</w> 1929, he art</w> 1936, thre e</w> 2097, pa in 2141,
    f low 2180, g old</w> 2209, wom an</w> 2308, c at</w> 2368, i ma 2414, sm all</w> 2442, c ir 2459,
    gr ound</w> 2461, r ound</w> 2522, per son</w> 2533, c le</w> 2537, r ing</w> 2540, ap e</w> 2609, on d</w> 2636,
    tre e</w> 2677, hu ge</w> 2699, ke t 2715, bro wn</w> 2866, ima ge</w> 2867, an ge</w> 3039, pain ting</w> 3086,
    col or</w> 3140, dar k</w> 3144, mo on</w> 3293, y el 3323, p ink</w> 3360, cro ss</w> 3417, sil ver</w> 3467,
    dra wing</w> 3610, lar ge</w> 3638, s ket 3744, sof t</w> 3773, squ are</w> 3999, flow er</w> 4055,
    or ange</w> 4287, di am 4347, yel low</w> 4481, col our</w> 4769, bri ght</w> 4852, sket ch</w> 5269,
    pur ple</w> 5496, fil led</w> 5589, tin y</w> 5591, back ground</w> 5994, diam ond</w> 6235, sh ape</w> 6448,
    ang le</w> 6946, gr ay</w> 7048, cir cle</w> 7117, th in</w> 7847, shar p</w> 8157, medi um</w> 8675,
    pla in</w> 10709, th ick</w> 11006, ar row</w> 11149, lin ed</w> 11842, p ale</w> 12518, tri angle</w> 14615,
    o val</w> 15039, out line</w> 26894
"""


def write_second_tokenizer(folder: Path) -> None:
    """Writes the five small files that `CLIPTokenizer` and `CLIPTextConfig` read."""
    letters = byte_letters()
    tokens = {token: number for number, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    merges = known_merges()
    tokens |= {left + right: number for left, right, number in merges}
    tokens |= {START: VOCABULARY - 2, END: VOCABULARY - 1}
    write_tokenizer_files(folder, tokens, [(left, right) for left, right, _ in merges], PAD, second_text_config())


def known_merges() -> list[tuple[str, str, int]]:
    """(left, right, id of their token), in CLIP's order."""
    triples = (entry.split() for entry in _MERGES.split(","))
    return [(left, right, int(number)) for left, right, number in triples]


def second_text_config() -> dict:
    """The config of a three-layer OpenCLIP text encoder in Hugging Face's format; one head, at most 64 wide."""
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 1,
        "max_position_embeddings": LENGTH,
        "projection_dim": WIDTH,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-05,
        "attention_dropout": 0.0,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "bos_token_id": VOCABULARY - 2,
        "eos_token_id": VOCABULARY - 1,
        "pad_token_id": 0,
    }


def open_clip_config() -> dict:
    """The same encoder in open_clip's format. The image encoder is not used, and as small as possible."""
    return {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": WIDTH, "heads": 1, "layers": 3},
    }
