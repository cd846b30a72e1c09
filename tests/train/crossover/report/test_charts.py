from xml.etree import ElementTree

from epochal.train.crossover.report.charts import line_plot


def test_a_plot_is_well_formed_and_has_every_point() -> None:
    svg = line_plot({"A <&> B": [(0, 1), (1, 2)], "C": [(0, 1)]}, "title", "x", "y")
    root = ElementTree.fromstring(svg)
    assert len(root.findall(".//{*}circle")) == 3
    assert "A <&> B" in [t.text for t in root.findall(".//{*}text")]
