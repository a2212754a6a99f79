"""The input benchmark runs and adds up; its figures are not judged here, where other tests share the cores."""

from maskmill.training.bench import bench_input, table
from maskmill.training.config import DataConfig


def test_stages_add_up_and_the_bottleneck_is_one_of_them(scenes, tmp_path):
    scenes.write_scenes(str(tmp_path), 12, size=(48, 64))
    config = DataConfig(layers=("true",), image_size=32, masks_per_view=4)
    result = bench_input(str(tmp_path), config, seconds=0.2, rounds=1)
    assert result["bottleneck"] in result["stages_ms"]
    assert result["per_core"] > 0
    assert sum(result["stages_ms"].values()) * result["per_core"] >= 999
    lines = table(result).splitlines()
    assert "batches of 12" in lines[0]  # no larger than the build
    assert any("bare decode" in line for line in lines)
    assert any("whole input" in line for line in lines)
