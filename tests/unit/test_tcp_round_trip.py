import socket
import threading

import pytest

from guest.bench import tcp_round_trip


def test_every_message_comes_back_and_the_warm_up_is_not_counted() -> None:
    served: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        echo = threading.Thread(target=lambda: served.append(tcp_round_trip.serve(listener)))
        echo.start()
        samples = tcp_round_trip.measure("127.0.0.1", listener.getsockname()[1], 20)
        echo.join(timeout=10)
    assert len(samples) == 20
    assert all(sample > 0 for sample in samples)
    assert served == [20 + tcp_round_trip.WARM_UP]


def test_a_peer_that_goes_away_is_an_error_and_no_sample() -> None:
    def hang_up() -> None:
        listener.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        closer = threading.Thread(target=hang_up)
        closer.start()
        with pytest.raises(ConnectionError):
            tcp_round_trip.measure("127.0.0.1", listener.getsockname()[1], 20)
        closer.join(timeout=10)
