"""Which settings need consent when they come out of a folder."""

from __future__ import annotations

from typing import Any

import pytest

from backroads.errors import ConfigError
from backroads.runs.trust import check_trusted, needs_consent


@pytest.mark.parametrize(
    "settings",
    [
        {"model": {"name": "os:system"}},
        {"model": {"name": "backroads.models.mlp:mlp"}},  # ours, but not by its name
        {"model": {"name": "timm:hf-hub:someone/something"}},
        {"model": {"name": "timm:local-dir:/somewhere"}},
        {"model": {"name": "torchvision:models:resnet18"}},
        {"model": {"name": ":"}},
        {"data": {"name": "os:system"}},
        {"data": {"name": "torchvision:datasets"}},
        {"rule": {"name": "torchvision:resnet18"}},  # a family of models is none of rules
        {"rule": {"name": "timm:create_model", "options": {"model_name": "resnet18"}}},
        {"rule": {"name": "folder:x"}},
        {"rule": {"layers": {"*": "os:system"}}},
        {"rule": {"options": {"drive": {"kind": "os:system"}}}},
        {"method": {"name": "os:system"}},
        {"method": {"options": {"rules": ["os:system"]}}},
        {"backward": {"mirror_options": {"drive": "os:system"}}},
        {"compare": {"rules": ["backprop", "os:system"]}},
        {"compare": {"methods": ["os:system"]}},
        {"compare": {"rule_settings": {"a": {"b": "os:system"}}}},
        {"space": {"rules": ["os:system"]}},
        {"space": {"methods": ("os:system",)}},
        {"space": {"ranges": {"reduction": ["sum", "os:system"]}}},
        {"schedule": {"coefficients": {"amp": {"kind": "os:system"}}}},
        *(
            {"model": {"name": "timm:resnet18", "options": {name: value}}}
            for name, value in (
                ("weights", "DEFAULT"),
                ("weights_backbone", "DEFAULT"),
                ("Weights", "IMAGENET1K_V1"),
                ("pretrained", True),
                ("pretrained_backbone", True),
                ("pretrained_cfg", {"file": "x.pth"}),
                ("pretrained_cfg_overlay", {"hf_hub_id": "someone/something"}),
                ("checkpoint_path", "x.pth"),
                ("cache_dir", "/tmp"),
            )
        ),
    ],
)
def test_what_imports_code_or_loads_a_file_needs_consent(settings: dict[str, Any]) -> None:
    assert len(needs_consent(settings)) == 1
    with pytest.raises(ConfigError, match=r"(?s)somewhere: expected .*\n  .* give --trust \(in Python trust=True\)"):
        check_trusted(settings, "somewhere", trust=False)
    check_trusted(settings, "somewhere", trust=True)
    check_trusted(settings, "somewhere", trust=False, own=settings)  # the user said the same


def test_every_line_of_the_message_is_one_of_them_and_what_the_user_named_is_none() -> None:
    settings = {"model": {"name": "a.b:c"}, "rule": {"name": "d:e", "layers": {"x": "d:e"}}}
    with pytest.raises(ConfigError) as refused:
        check_trusted(settings, "run", trust=False, own={"rule": {"name": "d:e"}})
    lines = str(refused.value).splitlines()[1:-1]
    assert lines == [
        "  model.name = 'a.b:c', which is imported and called",
        "  rule.layers.x = 'd:e', which is imported and called",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": {"name": "resnet20", "options": {"width": 4}}},
        {"model": {"name": "torchvision:resnet18", "options": {"weights": None}}},
        {"model": {"name": "torchvision:googlenet", "options": {"init_weights": True, "aux_logits": False}}},
        {"model": {"name": "timm:resnet18.a1_in1k", "options": {"pretrained": False, "drop_path_rate": 0.1}}},
        {"data": {"name": "folder:/data/flowers", "root": "C:/data"}},
        {"data": {"name": "npz:a:b.npz"}},
        {"task": {"task": "folder:letters", "root": "a:b"}},
        {"run": {"device": "cuda:1", "seed": 3}},
        {"study": {"storage": "postgresql://me@here/db"}},
        {"rule": {"name": "symmetric_alignment", "layers": {"a:b": "backprop"}}},
    ],
)
def test_names_of_the_package_and_data_need_none(settings: dict[str, Any]) -> None:
    assert needs_consent(settings) == []
    check_trusted(settings, "somewhere", trust=False)
