package netstack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// collector stands where gVisor's input stands.
type collector struct{ packets [][]byte }

func (c *collector) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, p *stack.PacketBuffer) {
	v := p.ToView()
	defer v.Release()
	c.packets = append(c.packets, bytes.Clone(v.AsSlice()))
}

func (c *collector) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

// segment makes a TCP segment from stack 9 to stack 1.
func segment(src, dst netip.Addr, port uint16, seq uint32, flags byte, payload []byte) []byte {
	l3 := ipv6Header
	if dst.Is4() {
		l3 = ipv4Header
	}
	b := make([]byte, l3+tcpHeader, l3+tcpHeader+len(payload))
	b = append(b, payload...)
	if dst.Is4() {
		header.IPv4(b).Encode(&header.IPv4Fields{
			TotalLength: uint16(len(b)), TTL: 64, Protocol: protocolTCP, SrcAddr: toTCPIP(src), DstAddr: toTCPIP(dst),
		})
	} else {
		header.IPv6(b).Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(b) - l3), HopLimit: 64, TransportProtocol: header.TCPProtocolNumber,
			SrcAddr: toTCPIP(src), DstAddr: toTCPIP(dst),
		})
	}
	header.TCP(b[l3:]).Encode(&header.TCPFields{
		SrcPort: port, DstPort: 80, SeqNum: seq, AckNum: 1, DataOffset: tcpHeader, Flags: header.TCPFlags(flags), WindowSize: 100,
	})
	return b
}

func TestMerge(t *testing.T) {
	const ack, psh, fin = byte(header.TCPFlagAck), byte(header.TCPFlagPsh), byte(header.TCPFlagFin)
	full := bytes.Repeat([]byte{'x'}, 100)
	for _, to := range []netip.Addr{v4(1), v6(1)} {
		from := v6(9)
		if to.Is4() {
			from = v4(9)
		}
		seg := func(port uint16, seq uint32, flags byte, p []byte) []byte {
			return segment(from, to, port, seq, flags, p)
		}
		for name, tc := range map[string]struct {
			in   [][]byte
			want []int // payload sizes, in order of delivery
		}{
			"one after another":     {[][]byte{seg(1, 0, ack, full), seg(1, 100, ack, full), seg(1, 200, ack|psh, full[:50])}, []int{250}},
			"sequence wraps":        {[][]byte{seg(1, 0xffffffff-99, ack, full), seg(1, 0, ack, full)}, []int{200}},
			"a gap":                 {[][]byte{seg(1, 0, ack, full), seg(1, 200, ack, full)}, []int{100, 100}},
			"after a push":          {[][]byte{seg(1, 0, ack|psh, full), seg(1, 100, ack, full)}, []int{100, 100}},
			"after a short one":     {[][]byte{seg(1, 0, ack, full), seg(1, 100, ack, full[:9]), seg(1, 109, ack, full)}, []int{109, 100}},
			"a longer one":          {[][]byte{seg(1, 0, ack, full[:50]), seg(1, 50, ack, full)}, []int{50, 100}},
			"FIN stays alone":       {[][]byte{seg(1, 0, ack, full), seg(1, 100, ack|fin, full)}, []int{100, 100}},
			"pure ACK keeps order":  {[][]byte{seg(1, 0, ack, full), seg(1, 100, ack, nil), seg(1, 100, ack, full)}, []int{100, 0, 100}},
			"two streams":           {[][]byte{seg(1, 0, ack, full), seg(2, 0, ack, full), seg(1, 100, ack, full), seg(2, 100, ack, full)}, []int{200, 200}},
			"more streams than fit": {manyStreams(seg, full), []int{100, 100, 100, 100, 100, 100, 100, 100, 100, 100}},
		} {
			c := new(collector)
			m := merger{out: c}
			for _, b := range tc.in {
				m.add(bytes.Clone(b))
			}
			m.flush()
			var got []int
			for _, p := range c.packets {
				_, trans := headers(p)
				got = append(got, len(trans)-tcpHeader)
			}
			if len(got) != len(tc.want) {
				t.Errorf("%s to %s: %v, want %v", name, to, got, tc.want)
				continue
			}
			for i := range got {
				if got[i] != tc.want[i] {
					t.Errorf("%s to %s: %v, want %v", name, to, got, tc.want)
					break
				}
			}
		}
	}
}

func manyStreams(seg func(uint16, uint32, byte, []byte) []byte, p []byte) (out [][]byte) {
	for port := range uint16(10) {
		out = append(out, seg(port, 0, ackOnly, p))
	}
	return out
}

// headers splits a packet by what its IP header says of its length.
func headers(b []byte) (ip, trans []byte) {
	if b[0]>>4 == 4 {
		return b[:ipv4Header], b[ipv4Header:binary.BigEndian.Uint16(b[2:])]
	}
	return b[:ipv6Header], b[ipv6Header : ipv6Header+int(binary.BigEndian.Uint16(b[4:]))]
}

// discard drops what is delivered.
type discard struct{}

func (discard) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}
func (discard) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer)    {}

// TestReceiveAllocations guards the receive path: a batch of full segments costs a buffer, not an allocation per packet.
func TestReceiveAllocations(t *testing.T) {
	if racing {
		t.Skip("SKIPPED: the race detector allocates")
	}
	s := newStack(t, 1, 1420)
	l := s.link
	l.Attach(discard{})
	payload := make([]byte, 1340)
	bufs := make([][]byte, 46)
	fresh := make([][]byte, 46)
	for i := range fresh {
		fresh[i] = segment(v4(9), v4(1), 1, uint32(i*1340), ackOnly, payload)
		bufs[i] = make([]byte, len(fresh[i]))
	}
	got := testing.AllocsPerRun(200, func() {
		for i := range bufs {
			copy(bufs[i], fresh[i])
		}
		l.deliver(bufs, 0)
	})
	if got > 8 {
		t.Errorf("%.1f allocations for a batch of 46 packets", got)
	}
	if st := s.Stats(); st.RxMerged == 0 {
		t.Error("nothing was joined")
	}
}
