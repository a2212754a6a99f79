"""Run by test_pods.py in processes of its own: `detcon` as it is, but for batches made without files or TensorFlow.

usage: pod_worker.py WORDS ...; MASKMILL_TEST_EVENT="NAME PROCESS STEP" makes something happen to one process:
kill, term (a notice of preemption), break (its data), other (it reads another data set).
"""

import os
import signal
import sys
import types

from conftest import FakeBatches

from maskmill.schemas.errors import DamageError

NAME, PROCESS, STEP = (os.environ.get("MASKMILL_TEST_EVENT") or "none -1 -1").split()


class Batches(FakeBatches):
    def __init__(self, data_dir, data, *, process_index, **kwargs):
        super().__init__(data_dir, data, process_index=process_index, **kwargs)
        self._mine = str(process_index) == PROCESS
        if self._mine and NAME == "other":
            self.manifest_digest = "digest of something else"

    def batch(self, step):
        if self._mine and str(step) == STEP:
            if NAME == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if NAME == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            if NAME == "break":
                raise DamageError("shard 3 is broken")
        return super().batch(step)


if __name__ == "__main__":
    sys.modules["maskmill.training.input"] = types.SimpleNamespace(Batches=Batches)
    from maskmill.training import cli

    sys.exit(cli.main(sys.argv[1:]))
