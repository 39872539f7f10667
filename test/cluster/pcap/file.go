// Package pcap writes captures of all interfaces of a network namespace and counts what is in a capture.
//
// The format is the classic pcap file: a 24-byte header, then a 16-byte record header and the bytes of each packet.
// Our own files are of link type Linux "cooked" v2, which has room for packets of different kinds of interfaces.
package pcap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Link types as in the tcpdump registry.
const (
	linkNull     = 0
	linkEthernet = 1
	linkRaw      = 101
	linkSLL      = 113
	linkIPv4     = 228
	linkIPv6     = 229
	linkSLL2     = 276
)

const (
	magicMicro = 0xa1b2c3d4
	magicNano  = 0xa1b23c4d
	// maxPacket bounds what a broken record header can make us read.
	maxPacket = 1 << 20
)

// Meta is what the kernel tells of a packet besides its bytes.
type Meta struct {
	Time      time.Time
	Protocol  uint16 // ethertype, in host order
	Interface int
	Hardware  uint16
	Direction uint8
	Address   [8]byte
}

// Writer writes packets without link header to a file.
type Writer struct{ w io.Writer }

// NewWriter writes the file's header.
func NewWriter(w io.Writer, snapLength uint32) (*Writer, error) {
	h := binary.LittleEndian.AppendUint32(nil, magicNano)
	h = binary.LittleEndian.AppendUint16(h, 2) // version 2.4
	h = binary.LittleEndian.AppendUint16(h, 4)
	h = append(h, make([]byte, 8)...) // times are UTC
	h = binary.LittleEndian.AppendUint32(h, snapLength+sll2Length)
	h = binary.LittleEndian.AppendUint32(h, linkSLL2)
	_, err := w.Write(h)
	return &Writer{w}, err
}

const sll2Length = 20

// Write appends a packet of which packet holds the beginning and size is the whole length.
func (w *Writer) Write(m Meta, packet []byte, size int) error {
	h := make([]byte, 0, 16+sll2Length+len(packet))
	h = binary.LittleEndian.AppendUint32(h, uint32(m.Time.Unix()))
	h = binary.LittleEndian.AppendUint32(h, uint32(m.Time.Nanosecond()))
	h = binary.LittleEndian.AppendUint32(h, uint32(sll2Length+len(packet)))
	h = binary.LittleEndian.AppendUint32(h, uint32(sll2Length+size))
	h = binary.BigEndian.AppendUint16(h, m.Protocol)
	h = append(h, 0, 0)
	h = binary.BigEndian.AppendUint32(h, uint32(m.Interface))
	h = binary.BigEndian.AppendUint16(h, m.Hardware)
	h = append(h, m.Direction, 6) // an Ethernet address has 6 bytes; other kinds leave them zero
	h = append(h, m.Address[:]...)
	_, err := w.w.Write(append(h, packet...))
	return err
}

// reader reads the records of any pcap file, whatever its byte order and link type.
type reader struct {
	r     io.Reader
	order binary.ByteOrder
	link  uint32
	buf   []byte
}

func newReader(r io.Reader) (*reader, error) {
	var h [24]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, fmt.Errorf("read capture header: %w", err)
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if m := order.Uint32(h[:]); m == magicMicro || m == magicNano {
			return &reader{r: r, order: order, link: order.Uint32(h[20:]) & 0xfffff}, nil
		}
	}
	return nil, fmt.Errorf("read capture header: % x is not the beginning of a pcap file", h[:4])
}

// next returns the next record, valid until the following call. A record that the writer did not finish ends the
// file like io.EOF: a capture may be read while it is written, and is cut short when its machine stops.
func (r *reader) next() ([]byte, error) {
	var h [16]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return nil, eof(err)
	}
	n := r.order.Uint32(h[8:])
	if n > maxPacket {
		return nil, fmt.Errorf("read packet: length %d is above %d", n, maxPacket)
	}
	if int(n) > cap(r.buf) {
		r.buf = make([]byte, n)
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		return nil, eof(err)
	}
	return r.buf, nil
}

func eof(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}
