"""Plain values to pages."""

from monai_histodiff.report.data_sets import sets_to_html as sets_to_html
from monai_histodiff.report.gallery import Tile as Tile
from monai_histodiff.report.page import write_report as write_report
from monai_histodiff.report.summary import to_html as to_html
from monai_histodiff.report.summary import to_markdown as to_markdown
