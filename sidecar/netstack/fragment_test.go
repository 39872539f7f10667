package netstack

import (
	"bytes"
	"encoding/binary"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// whole puts fragments together again, as their offsets say, and fails the test where one is wrong.
func whole(t *testing.T, six bool, mtu int, fragments [][]byte) (payload []byte) {
	t.Helper()
	for i, b := range fragments {
		if len(b) > mtu {
			t.Fatalf("a fragment of %d bytes, want at most %d", len(b), mtu)
		}
		h, offset, more := ipv4Header, 0, false
		if six {
			field := binary.BigEndian.Uint16(b[ipv6Header+2:])
			h, offset, more = ipv6Header+fragmentHeader, int(field&^7), field&1 != 0
			if b[6] != protocolNext || b[ipv6Header] != 17 || int(binary.BigEndian.Uint16(b[4:])) != len(b)-ipv6Header {
				t.Fatalf("header %x", b[:h])
			}
		} else {
			field := binary.BigEndian.Uint16(b[6:])
			offset, more = int(field&0x1fff)*8, field&moreFragments4 != 0
			if checksum.Checksum(b[:h], 0) != 0xffff || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
				t.Fatalf("header %x", b[:h])
			}
		}
		if offset != len(payload) || more != (i < len(fragments)-1) || more && (len(b)-h)%8 != 0 {
			t.Fatalf("fragment %d of %d: offset %d after %d bytes, more %t", i, len(fragments), offset, len(payload), more)
		}
		payload = append(payload, b[h:]...)
	}
	return payload
}

// TestFragments cuts packets of every length, and then the fragments.
func TestFragments(t *testing.T) {
	for _, six := range []bool{false, true} {
		for size := 1; size < 3000; size += 7 {
			b := append(header4(), make([]byte, size)...)
			if six {
				b = append(header6(), make([]byte, size)...)
			}
			payload := b[len(b)-size:]
			for i := range payload {
				payload[i] = byte(i * 7)
			}
			b = bytes.Clone(b)
			var once, twice [][]byte
			for _, f := range fragmentsOf(t, b, 1280) {
				once = append(once, f)
				twice = append(twice, fragmentsOf(t, bytes.Clone(f), 600)...)
			}
			if got := whole(t, six, 1280, once); !bytes.Equal(got, payload) {
				t.Fatalf("IPv6 %t, %d bytes: they are not the same", six, size)
			}
			if got := whole(t, six, 600, twice); !bytes.Equal(got, payload) {
				t.Fatalf("IPv6 %t, %d bytes, twice: they are not the same", six, size)
			}
		}
	}
}

func fragmentsOf(t *testing.T, b []byte, mtu int) (out [][]byte) {
	t.Helper()
	f, ok := newFragmenter(b)
	if !ok {
		t.Fatal("not taken")
	}
	for len(f.payload) > 0 {
		f.next(mtu, func(n int) []byte {
			out = append(out, make([]byte, n))
			return out[len(out)-1]
		})
	}
	return out
}

func header4() []byte {
	h := make([]byte, ipv4Header)
	h[0], h[6], h[8], h[9] = 0x45, 0x40, 64, 17
	return h
}

func header6() []byte {
	h := make([]byte, ipv6Header)
	h[0], h[6], h[7] = 0x60, 17, 64
	return h
}
