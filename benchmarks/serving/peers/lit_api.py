"""LitServe with what its documentation offers for throughput: batching, a worker a core, and the fast (ZeroMQ) queue."""

from typing import Any

import litserve

from benchmarks.serving.peers.model import PORT, Model


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """A text classifier."""

    def setup(self, device: str) -> None:
        """Load the model, once a worker."""
        self.model = Model()
        self.model.answer(["warm up"])

    def decode_request(self, request: dict[str, Any]) -> str:
        """The text of a request."""
        return str(request["text"])

    def batch(self, inputs: list[str]) -> list[str]:
        """Texts stay a list."""
        return inputs

    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        """Answers of a batch."""
        return self.model.answer(texts)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answers are a list already."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(max_batch_size=16, batch_timeout=0.002), accelerator="cpu", workers_per_device=2, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=PORT,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
