"""``python -m monai_histodiff``: the main job, see :mod:`monai_histodiff.bundle.main_job`."""

from monai_histodiff.bundle.main_job import main

if __name__ == "__main__":
    main()
