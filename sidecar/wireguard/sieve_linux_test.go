package wireguard

import (
	"encoding/binary"
	"net"
	"testing"
	"time"
)

// TestSieve: the system refuses the part of one index's messages, takes all others, and takes everything again at the end.
func TestSieve(t *testing.T) {
	var ss sockets
	if err := ss.open(0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ss.close() })
	to, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(ss.port)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = to.Close() })
	message := func(kind, index uint32) []byte {
		b := make([]byte, Overhead)
		binary.LittleEndian.PutUint32(b, kind)
		binary.LittleEndian.PutUint32(b[transReceiver:], index)
		return b
	}
	in := ss.v4.newInbox()
	const n, end = 200, 99
	came := func() (got map[uint32]int) {
		for range n {
			for _, m := range [][]byte{message(typeTransport, 0x01020304), message(typeTransport, 0xfffefdfc), message(typeTransport, 7), message(typeInitiation, 7)} {
				_, _ = to.Write(m)
			}
		}
		_, _ = to.Write(message(end, 0))
		got = map[uint32]int{}
		_ = ss.v4.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		for got[end] == 0 {
			all, err := in.read()
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range all {
				if kind := messageType(m.data); kind != typeTransport {
					got[kind]++
				} else {
					got[binary.LittleEndian.Uint32(m.data[transReceiver:])]++
				}
			}
		}
		return got
	}
	if err := ss.v4.sieve([]sieved{{0x01020304, 0.5}, {7, 0.99999}}); err != nil {
		t.Fatal(err)
	}
	if got := came(); got[0x01020304] < n/4 || got[0x01020304] > n*3/4 || got[7] > 5 || got[0xfffefdfc] != n || got[typeInitiation] != n {
		t.Errorf("of %d messages each came: %v", n, got)
	}
	if err := ss.v4.sieve(nil); err != nil {
		t.Fatal(err)
	}
	if got := came(); got[7] != n || got[0x01020304] != n {
		t.Errorf("without a sieve, of %d messages each came: %v", n, got)
	}
	if fill := in.filled(); fill > 0.5 {
		t.Errorf("an empty socket is filled by %.2f", fill)
	}
	if in.lost(0) == 0 {
		t.Error("nobody says what was lost")
	}
}
