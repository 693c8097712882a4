"""Draw covers with any version of a run, from fixed seeds and latents, and score them against real held-out covers."""

from __future__ import annotations

import config
from cli import launch, parser


def main(argv: list[str] | None = None) -> int:
    """Draw prompts, the grid (templates x held-out books), or --num_imgs covers with their score."""
    options, given = parser.parse(config.InferenceOptions, argv)

    from common.processes import make_accelerator
    from evaluation.score_run import draw_and_score
    from generation.covers import covers_folder
    from generation.glyph_pages import require_lettering
    from generation.grid import draw_grid
    from generation.prompt_covers import draw_prompts
    from generation.version import choose_version, require_drawable

    options, version = choose_version(options, given)
    require_drawable(options, version)
    require_lettering(options, [version])
    folder = covers_folder(options, version)
    launch.launch_on_gpus(options.num_gpus, __file__, argv)
    state = make_accelerator().state
    if options.calc_fid:
        draw_and_score(options, version, folder / version.name, state)
    elif state.is_main_process:
        draw = draw_prompts if options.prompt or options.prompts_file else draw_grid
        draw(options, version, folder, state.device)
    return 0


if __name__ == "__main__":
    launch.run_script(main)
