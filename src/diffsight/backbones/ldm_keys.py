"""Names of the weights in original latent-diffusion (LDM) checkpoints and in diffusers.

The tables follow from the two architectures: LDM counts all blocks (``input_blocks.7.1``),
diffusers nests them (``down_blocks.2.attentions.0``). The values are the same, except in
the VAE's attention: its 1x1 convolutions are linear layers in diffusers.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "emb_layers.1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
# attention of the VAE: names in original files and early diffusers folders, and current names
_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


@dataclass
class KeyReport:
    """The use of every entry of a checkpoint, so that no entry is skipped unnoticed.

    Attributes:
        used: original key -> key of the model.
        dropped: original key -> reason why the model does not need it.
        unused: original keys that no rule matches.
        missing: keys of the model that the checkpoint lacks.
    """

    used: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return the numbers of used, dropped, unused and missing keys in one line."""
        return (
            f"{len(self.used)} used, {len(self.dropped)} dropped, "
            f"{len(self.unused)} unused, {len(self.missing)} missing"
        )


def unet_prefixes(num_levels: int, layers: int, has_attention: Sequence[bool]) -> dict[str, str]:
    """Return the diffusers module prefix of each LDM module prefix of a UNet.

    Args:
        num_levels: number of resolutions.
        layers: residual blocks per resolution on the way down (one more on the way up).
        has_attention: whether each level has attention, finest first.
    """
    table = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0",
        "middle_block.2": "mid_block.resnets.1",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }
    for level in range(num_levels):
        for j in range(layers):
            block = 1 + level * (layers + 1) + j
            table[f"input_blocks.{block}.0"] = f"down_blocks.{level}.resnets.{j}"
            if has_attention[level]:
                table[f"input_blocks.{block}.1"] = f"down_blocks.{level}.attentions.{j}"
        last = (level + 1) * (layers + 1)
        if level < num_levels - 1:
            table[f"input_blocks.{last}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
        attends = has_attention[num_levels - 1 - level]
        for j in range(layers + 1):
            block = level * (layers + 1) + j
            table[f"output_blocks.{block}.0"] = f"up_blocks.{level}.resnets.{j}"
            if attends:
                table[f"output_blocks.{block}.1"] = f"up_blocks.{level}.attentions.{j}"
        if level < num_levels - 1:
            block, part = level * (layers + 1) + layers, 2 if attends else 1
            table[f"output_blocks.{block}.{part}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return table


def unet_key(key: str, prefixes: Mapping[str, str]) -> str | None:
    """Return the diffusers name of an LDM entry of the UNet; None if it has none.

    Args:
        key: name of the entry, without the UNet's prefix.
        prefixes: result of ``unet_prefixes``.
    """
    for prefix in _module_prefixes(key):
        if prefix in prefixes:
            target, rest = prefixes[prefix], key[len(prefix) + 1 :]
            if ".resnets." in target:
                inner, _, leaf = rest.rpartition(".")
                return f"{target}.{_RESNET[inner]}.{leaf}" if inner in _RESNET else None
            return f"{target}.{rest}"
    return None


def vae_encoder_key(key: str) -> str | None:
    """Return the diffusers name of an LDM entry of the VAE; None if it is not in the encoder.

    The encoder includes ``quant_conv``.

    Args:
        key: name of the entry, without the VAE's prefix.
    """
    if key.startswith("quant_conv."):
        return key
    match = re.fullmatch(r"encoder\.down\.(\d+)\.block\.(\d+)\.(.+)", key)
    if match:
        level, j, rest = match.groups()
        return f"encoder.down_blocks.{level}.resnets.{j}.{_shortcut(rest)}"
    match = re.fullmatch(r"encoder\.down\.(\d+)\.downsample\.conv\.(.+)", key)
    if match:
        return f"encoder.down_blocks.{match[1]}.downsamplers.0.conv.{match[2]}"
    match = re.fullmatch(r"encoder\.mid\.block_([12])\.(.+)", key)
    if match:
        return f"encoder.mid_block.resnets.{int(match[1]) - 1}.{_shortcut(match[2])}"
    match = re.fullmatch(r"encoder\.mid\.attn_1\.(.+)\.(weight|bias)", key)
    if match:
        return f"encoder.mid_block.attentions.0.{_ATTENTION.get(match[1], match[1])}.{match[2]}"
    match = re.fullmatch(r"encoder\.(conv_in|conv_out|norm_out)\.(weight|bias)", key)
    if match:
        name = "conv_norm_out" if match[1] == "norm_out" else match[1]
        return f"encoder.{name}.{match[2]}"
    return None


def folder_key(key: str) -> str:
    """Return the current diffusers name of an entry; VAEs of Stable Diffusion 1.x use old names."""
    match = re.fullmatch(r"(.+\.attentions\.\d+)\.(query|key|value|proj_attn)\.(.+)", key)
    return f"{match[1]}.{_ATTENTION[match[2]]}.{match[3]}" if match else key


def vae_value(key: str, value: Tensor) -> Tensor:
    """Return the value of an entry in the shape that diffusers uses.

    The attention's 1x1 convolutions become linear layers.

    Args:
        key: diffusers name of the entry.
        value: value of the entry in the checkpoint.
    """
    return value.flatten(1) if ".attentions." in key and value.ndim > 2 else value


def _shortcut(rest: str) -> str:
    """Return the name of a weight of a residual block, with diffusers' name for the shortcut."""
    return rest.replace("nin_shortcut", "conv_shortcut")


def _module_prefixes(key: str) -> Iterator[str]:
    """Yield the paths of all modules that contain an entry, longest first."""
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:end])
