"""The command line, and what packs the bundles: a module for each command."""

from monai_histodiff.commands.zoo import check_bundle as check_bundle
from monai_histodiff.commands.zoo import package_bundle as package_bundle
from monai_histodiff.commands.zoo_submission import submit_bundles as submit_bundles
