//! Traffic over loopback: what came is what was sent, and strangers count for nothing.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use super::*;

const OURS: Token = *b"measured";
const SOON: Duration = Duration::from_millis(300);
const LATE: Duration = Duration::from_secs(20);

fn pair() -> (UdpSocket, UdpSocket) {
    let [one, other] = [(), ()].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    one.connect(other.local_addr().unwrap()).unwrap();
    other.connect(one.local_addr().unwrap()).unwrap();
    (one, other)
}

#[test]
fn a_paced_sender_sends_what_its_rate_says_and_all_of_it_is_counted() {
    let (one, other) = pair();
    let sizes = [64, 576, 1_400];
    let counting =
        thread::spawn(move || receive(other.as_raw_fd(), OURS, LATE, SOON, LATE).unwrap());
    let sent = send(one.as_raw_fd(), OURS, &sizes, Some(3_000.0), SOON).unwrap();
    let received = counting.join().unwrap();
    // Never more than the rate allows: the first goes at once.
    assert!(sent.datagrams as f64 <= 3_000.0 * sent.seconds + 1.0, "{sent:?}");
    assert_eq!((received.datagrams, received.bytes), (sent.datagrams, sent.bytes));
    let bytes: usize = (0..sent.datagrams as usize).map(|number| sizes[number % 3]).sum();
    assert_eq!(sent.bytes, bytes as u64);
    assert_eq!((received.late, received.foreign), (0, 0));
}

#[test]
fn what_has_another_token_is_not_counted_and_keeps_nobody_waiting() {
    let (one, other) = pair();
    send(one.as_raw_fd(), *b"stranger", &[64], Some(50.0), Duration::from_millis(100)).unwrap();
    let received = receive(other.as_raw_fd(), OURS, SOON, SOON, LATE).unwrap();
    assert_eq!((received.datagrams, received.bytes), (0, 0));
    assert!(received.foreign > 0);
}

#[test]
fn only_datagrams_of_the_measurement_are_echoed() {
    let (one, other) = pair();
    let answering = thread::spawn(move || echo(other.as_raw_fd(), OURS, SOON, LATE).unwrap());
    one.send(b"who are you, and what is it that you send to me?").unwrap();
    let seen = round_trips(one.as_raw_fd(), OURS, 7, Duration::ZERO, LATE, LATE).unwrap();
    assert_eq!((seen.sent, seen.nanoseconds.len()), (7, 7));
    assert_eq!(answering.join().unwrap(), 7);
}

#[test]
fn without_an_answer_the_question_is_lost_and_the_next_is_asked() {
    let (one, _other) = pair();
    let patience = Duration::from_millis(20);
    let seen = round_trips(one.as_raw_fd(), OURS, 3, Duration::ZERO, patience, LATE).unwrap();
    assert_eq!((seen.sent, seen.nanoseconds.len()), (3, 0));
}

#[test]
fn sizes_without_room_for_the_head_and_longer_than_udp_are_refused() {
    let (one, _other) = pair();
    for size in [0, HEAD - 1, LONGEST + 1] {
        assert!(send(one.as_raw_fd(), OURS, &[size], None, SOON).is_err(), "{size}");
    }
}

#[test]
fn every_byte_of_every_stream_arrives_and_the_end_of_streams_ends_the_receiver() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let pairs: Vec<_> =
        (0..3).map(|_| (TcpStream::connect(to).unwrap(), listener.accept().unwrap().0)).collect();
    let (near, far): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let numbers =
        |streams: &[TcpStream]| streams.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>();
    let far_numbers = numbers(&far);
    let reading = thread::spawn(move || receive_streams(&far_numbers, LATE).unwrap());
    let sent = send_streams(&numbers(&near), Duration::from_millis(50)).unwrap();
    let received = reading.join().unwrap();
    assert_eq!(received.bytes, sent.bytes);
    assert!(sent.bytes.iter().all(|bytes| *bytes > 0), "{sent:?}");
    drop(far);
}

#[test]
fn a_descriptor_that_is_not_open_is_an_error() {
    assert!(send(-1, OURS, &[64], None, SOON).is_err());
    assert!(send_streams(&[-1], SOON).is_err());
}
