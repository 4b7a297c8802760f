"""The configs of the embedded checkpoint and its variants in LDM's and sgm's format, for the WebUIs."""

from __future__ import annotations

from tools.checkpoints.second_vocabulary import WIDTH

OPEN_CLIP_NAME = "lora-train-xl-v1"
"""The name of the SDXL variant's second text encoder; open_clip must know it before a WebUI can open the file."""

_AUTOENCODER = """\
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: 64
          in_channels: 3
          out_ch: 3
          ch: 32
          ch_mult: [1, 1, 2, 2]
          num_res_blocks: 1
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
"""

_SD1 = """\
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
PARAMETERIZATION    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    first_stage_key: jpg
    cond_stage_key: txt
    image_size: 8
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    monitor: val/loss_simple_ema
    scale_factor: 0.18215
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 8
        in_channels: 4
        out_channels: 4
        model_channels: 64
        attention_resolutions: [2, 1]
        num_res_blocks: 2
        channel_mult: CHANNEL_MULT
        num_heads: 8
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: 64
        use_checkpoint: false
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
AUTOENCODER    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: TOKENIZER
"""

_XL = """\
model:
  target: sgm.models.diffusion.DiffusionEngine
  params:
    scale_factor: 0.13025
    disable_first_stage_autocast: true
    denoiser_config:
      target: sgm.modules.diffusionmodules.denoiser.DiscreteDenoiser
      params:
        num_idx: 1000
        weighting_config:
          target: sgm.modules.diffusionmodules.denoiser_weighting.EpsWeighting
        scaling_config:
          target: sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling
        discretization_config:
          target: sgm.modules.diffusionmodules.discretizer.LegacyDDPMDiscretization
    network_config:
      target: sgm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        adm_in_channels: ADM_IN
        num_classes: sequential
        use_checkpoint: false
        in_channels: 4
        out_channels: 4
        model_channels: 64
        attention_resolutions: [4, 2]
        num_res_blocks: 2
        channel_mult: [1, 1, 1]
        num_head_channels: 64
        use_spatial_transformer: true
        use_linear_in_transformer: true
        transformer_depth: [1, 1, 2]  # the first level has no attention: attention_resolutions begin at 2
        context_dim: CONTEXT
        spatial_transformer_attn_type: softmax-xformers
        legacy: false
    conditioner_config:
      target: sgm.modules.GeneralConditioner
      params:
        emb_models:
          - is_trainable: false
            input_key: txt
            target: sgm.modules.encoders.modules.FrozenCLIPEmbedder
            params:
              version: TOKENIZER
              layer: hidden
              layer_idx: 2
          - is_trainable: false
            input_key: txt
            target: sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder2
            params:
              arch: OPEN_CLIP_NAME
              version: none
              freeze: true
              layer: penultimate
              always_return_pooled: true
              legacy: false
          - is_trainable: false
            input_key: original_size_as_tuple
            target: sgm.modules.encoders.modules.ConcatTimestepEmbedderND
            params:
              outdim: 256
          - is_trainable: false
            input_key: crop_coords_top_left
            target: sgm.modules.encoders.modules.ConcatTimestepEmbedderND
            params:
              outdim: 256
          - is_trainable: false
            input_key: target_size_as_tuple
            target: sgm.modules.encoders.modules.ConcatTimestepEmbedderND
            params:
              outdim: 256
    first_stage_config:
      target: sgm.models.autoencoder.AutoencoderKLInferenceWrapper
      params:
AUTOENCODER"""


def sd1_config(stem: str, v: bool = False) -> str:
    """For the embedded checkpoint, or its v-prediction variant. stem: the name of file and tokenizer."""
    filled = _SD1.replace("PARAMETERIZATION", "    parameterization: v\n" if v else "")
    filled = filled.replace("CHANNEL_MULT", "[1, 2, 1]" if v else "[1, 2, 2]")
    return _with_parts(filled, stem)


def xl_config(stem: str) -> str:
    """For the SDXL variant."""
    filled = _XL.replace("ADM_IN", str(WIDTH + 6 * 256)).replace("CONTEXT", str(64 + WIDTH))
    return _with_parts(filled.replace("OPEN_CLIP_NAME", OPEN_CLIP_NAME), stem)


def _with_parts(config: str, stem: str) -> str:
    return config.replace("AUTOENCODER", _AUTOENCODER).replace("TOKENIZER", f"models/Stable-diffusion/{stem}")
