"""Questions to a cluster before a job goes there: which Flink is it, and do its workers start?

Wrong answers to them end in a job that waits for ever or fails after minutes, in words that are not about the cause.
"""

import asyncio
import contextlib
import dataclasses
import json
import socket
import urllib.request

from maskmill.schemas.errors import InputError, UsageError

REACH_S = 5.0  # to connect to a cluster, and for an answer
START_S = 45.0  # for a worker to start: Beam's imports on a busy machine
_PROBE = "maskmill-probe"


@dataclasses.dataclass(frozen=True)
class Flink:
    """A Flink cluster, as its JobManager describes it."""

    version: str
    slots: int


@dataclasses.dataclass(frozen=True)
class Dask:
    """A Dask cluster, as its scheduler describes it. `thread_bytes`: memory for a thread where it is least; 0 for no limit."""

    workers: int
    threads: int
    thread_bytes: int


def check_flink(address: str, wanted: str, published: list[str]) -> Flink:
    """Asks the JobManager what it is.

    Args:
        address: of its REST interface, HOST:PORT or a URL.
        wanted: the version that Beam's job server is for, as 1.20; "" when that is not ours to know.
        published: versions that Beam has job servers for.

    Raises:
        InputError: it is not Flink's REST interface that answers, or the cluster has no TaskManager.
        UsageError: it is another version of Flink: job servers and clusters of different ones do not understand each other.
    """
    url = f"{address if '://' in address else f'http://{address}'}".rstrip("/")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # clusters are not behind a proxy for the web
    try:
        with direct.open(f"{url}/overview", timeout=REACH_S) as answer:
            said = json.load(answer)
        version, slots = str(said["flink-version"]), int(said["slots-total"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"what answers at --flink_master={address} is not Flink's REST interface, or not ready yet "
            f"({type(error).__name__}: {error}); it is at port 8081 of the JobManager as a rule"
        ) from error
    minor = ".".join(version.split(".")[:2])
    if wanted and minor != wanted:
        way = f"add --flink_version={minor} after --" if minor in published else f"Beam can use {', '.join(published)}"
        raise UsageError(f"the cluster at {address} is Flink {version}, and the job would be for {wanted}; {way}")
    if slots == 0:
        raise InputError(f"the Flink cluster at {address} has no task slots; start a TaskManager")
    return Flink(version, slots)


def check_job_service(address: str) -> bool:
    """Waits until a job service is ready. Beam itself would wait for a minute, and then say nothing but its type of error.

    Returns:
        Whether it stands before a Flink or Spark cluster, which may be anywhere.

    Raises:
        InputError: something else answers there.
    """
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=REACH_S)
        except grpc.FutureTimeoutError:
            raise InputError(f"what answers at --job_endpoint={address} is not a Beam job service") from None
        service = beam_job_api_pb2_grpc.JobServiceStub(channel)
        try:
            said = service.DescribePipelineOptions(
                beam_job_api_pb2.DescribePipelineOptionsRequest(), timeout=2 * REACH_S
            )
        except grpc.RpcError:
            return False  # it is ready, and does not say
        return any(option.name in ("flink_master", "spark_master") for option in said.options)


def check_dask(address: str) -> Dask:
    """Asks the scheduler for its workers. A job without any would wait for ever.

    Raises:
        InputError: it is not a Dask scheduler that answers, or it has no workers.
    """
    from distributed.core import connect, send_recv

    async def ask() -> dict:
        comm = await connect(address, timeout=REACH_S)
        try:
            return await send_recv(comm, op="identity")
        finally:
            comm.abort()

    async def ask_in_time() -> dict:
        return await asyncio.wait_for(ask(), 2 * REACH_S)  # Dask's own client would try again and again

    try:
        workers = asyncio.run(ask_in_time())["workers"]
        threads = [max(1, int(worker["nthreads"])) for worker in workers.values()]
        memory = [
            int(worker.get("memory_limit") or 0) // n for worker, n in zip(workers.values(), threads, strict=True)
        ]
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"what answers at --dask_client_address={address} is not a Dask scheduler ({why})") from error
    if not workers:
        raise InputError(f"the Dask scheduler at {address} has no workers; start some: dask worker {address}")
    return Dask(len(workers), sum(threads), min(memory))


def check_pool(address: str) -> None:
    """Has a pool of workers on this machine start one, and waits for it to call.

    A pool starts `python` by that name, from its own PATH. Where that has no Beam, the worker ends at once, the pool does
    not notice, and a job would wait for it for ever.

    Raises:
        InputError: no worker came, or what answers there is no pool of workers.
    """
    import grpc
    from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2

    with socket.create_server(("127.0.0.1", 0)) as server, grpc.insecure_channel(address) as channel:
        pool = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
        here = endpoints_pb2.ApiServiceDescriptor(url=f"127.0.0.1:{server.getsockname()[1]}")
        names = ("control_endpoint", "logging_endpoint", "artifact_endpoint", "provision_endpoint")
        try:
            pool.StartWorker(
                beam_fn_api_pb2.StartWorkerRequest(worker_id=_PROBE, **dict.fromkeys(names, here)), timeout=REACH_S
            )
        except grpc.RpcError as error:
            raise InputError(
                f"what answers at --environment_config={address} is not a pool of Beam workers ({error.code().name}); "
                "start one: python -m apache_beam.runners.worker.worker_pool_main --service_port=PORT"
            ) from error
        server.settimeout(START_S)
        try:
            server.accept()[0].close()
        except TimeoutError:
            raise InputError(
                f"the pool at --environment_config={address} answers, but its workers do not start within {START_S:g} s; "
                "it runs `python` by that name: put the environment that has maskmill first in the pool's PATH"
            ) from None
        finally:
            with contextlib.suppress(grpc.RpcError):
                pool.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id=_PROBE), timeout=2 * REACH_S)
