"""``python -m monai_histodiff``: the main job, see :mod:`monai_histodiff.commands.main_job`."""

from monai_histodiff.commands.main_job import main

if __name__ == "__main__":
    main()
