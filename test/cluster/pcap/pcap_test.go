package pcap

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"testing"
	"time"
)

// udp4 is an IPv4 UDP packet, and tcp4 one that has 20 bytes of TCP header.
func udp4(payload []byte) []byte {
	b := append(ipv4(protocolUDP, 8+len(payload)), 0x30, 0x39, 0xca, 0x6c)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

func tcp4(payload []byte) []byte {
	return append(append(ipv4(protocolTCP, 20+len(payload)), make([]byte, 20)...), payload...)
}

func ipv4(protocol byte, n int) []byte {
	b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	binary.BigEndian.PutUint16(b[2:], uint16(20+n))
	return b
}

func udp6(payload []byte) []byte {
	b := append([]byte{0x60, 0, 0, 0, 0, 0, protocolUDP, 64}, make([]byte, 32)...)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	b = append(b, 0, 1, 0, 2)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

func message(typ byte, n int) []byte { return append([]byte{typ}, make([]byte, n-1)...) }

func capture(t testing.TB, protocol uint16, packets ...[]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, 65535)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		if err := w.Write(Meta{Time: time.Unix(1, 2), Protocol: protocol, Interface: 3}, p, len(p)); err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

func TestCount(t *testing.T) {
	secret := []byte("in the clear")
	for name, c := range map[string]struct {
		packet []byte
		want   Stats
	}{
		"initiation":         {udp4(message(1, 148)), Stats{UDP: 1, WireGuard: 1}},
		"response":           {udp4(message(2, 92)), Stats{UDP: 1, WireGuard: 1}},
		"cookie":             {udp4(message(3, 64)), Stats{UDP: 1, WireGuard: 1}},
		"keepalive":          {udp4(message(4, 32)), Stats{UDP: 1, WireGuard: 1}},
		"data":               {udp4(message(4, 1440)), Stats{UDP: 1, WireGuard: 1, Data: 1}},
		"padded by Ethernet": {append(udp4(message(4, 32)), 0, 0, 0), Stats{UDP: 1, WireGuard: 1}},
		"odd data":           {udp4(message(4, 33)), Stats{UDP: 1}},
		"long initiation":    {udp4(message(1, 149)), Stats{UDP: 1}},
		"reserved bytes":     {udp4(append([]byte{4, 1}, make([]byte, 30)...)), Stats{UDP: 1}},
		"short":              {udp4([]byte{4}), Stats{UDP: 1}},
		"type 5":             {udp4(message(5, 64)), Stats{UDP: 1}},
		"TCP":                {tcp4(message(4, 32)), Stats{TCP: 1}},
		"marker in TCP": {tcp4(append([]byte("xx"), secret...)),
			Stats{TCP: 1, Marker: 1, MarkerFlows: []string{"10.0.0.1:0 > 10.0.0.2:0 protocol 6"}}},
		"marker in UDP": {udp4(secret), Stats{UDP: 1, Marker: 1, MarkerFlows: []string{"10.0.0.1:12345 > 10.0.0.2:51820 protocol 17"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Count(bytes.NewReader(capture(t, 0x0800, c.packet)), secret)
			c.want.Packets, c.want.IP = 1, 1
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestCountIPv6(t *testing.T) {
	got, err := Count(bytes.NewReader(capture(t, 0x86dd, udp6(message(1, 148)), udp6(nil))), nil)
	if want := (Stats{Packets: 2, IP: 2, UDP: 2, WireGuard: 1}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

// Files of other programs: big endian, microseconds, Ethernet with a VLAN tag.
func TestCountForeignFile(t *testing.T) {
	frame := append(make([]byte, 12), 0x81, 0, 0, 7, 0x08, 0)
	frame = append(frame, udp4(message(2, 92))...)
	f := binary.BigEndian.AppendUint32(nil, magicMicro)
	f = append(f, make([]byte, 16)...)
	f = binary.BigEndian.AppendUint32(f, linkEthernet)
	f = append(f, make([]byte, 8)...)
	f = binary.BigEndian.AppendUint32(f, uint32(len(frame)))
	f = append(append(f, 0, 0, 0, 0), frame...)
	got, err := Count(bytes.NewReader(f), nil)
	if want := (Stats{Packets: 1, IP: 1, UDP: 1, WireGuard: 1}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

// A file that breaks off anywhere past its header counts what it has.
func TestCountCutShort(t *testing.T) {
	whole := capture(t, 0x0800, udp4(message(1, 148)), udp4(message(1, 148)))
	for n := 24; n < len(whole); n++ {
		got, err := Count(bytes.NewReader(whole[:n]), nil)
		if err != nil || got.Packets > 1 {
			t.Fatalf("%d of %d bytes: got %+v, %v", n, len(whole), got, err)
		}
	}
	for n := range 24 {
		if _, err := Count(bytes.NewReader(whole[:n]), nil); err == nil {
			t.Fatalf("%d bytes are no capture", n)
		}
	}
}

func FuzzCount(f *testing.F) {
	f.Add(capture(f, 0x0800, udp4(message(4, 48)), tcp4([]byte("x"))), []byte("x"))
	f.Add(capture(f, 0x86dd, udp6(message(1, 148))), []byte{})
	f.Fuzz(func(t *testing.T, file, marker []byte) {
		s, err := Count(bytes.NewReader(file), marker)
		if err == nil && (s.TCP+s.UDP > s.IP || s.IP > s.Packets || s.WireGuard > s.UDP || s.Marker > s.Packets) {
			t.Errorf("impossible counts: %+v", s)
		}
	})
}
