package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// The classic pcap format, with nanoseconds, little-endian: a header of 24 bytes, then 16 bytes before each packet. The link type says
// that a packet begins with its IP header.
const (
	fileHeader   = 24
	recordHeader = 16
	magic        = 0xa1b23c4d
	linkRaw      = 101
)

// appendHeader appends the file's header.
func appendHeader(b []byte, snapLength int) []byte {
	b = binary.LittleEndian.AppendUint32(b, magic)
	b = binary.LittleEndian.AppendUint16(b, 2) // version 2.4
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)                           // times are UTC
	b = binary.LittleEndian.AppendUint32(b, uint32(snapLength)) //nolint:gosec // wire.Capture bounds it
	return binary.LittleEndian.AppendUint32(b, linkRaw)
}

// appendRecord appends a packet of which packet is the beginning and size the whole length.
func appendRecord(b []byte, at time.Time, packet []byte, size int) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(at.Unix())) //nolint:gosec // until 2106
	b = binary.LittleEndian.AppendUint32(b, uint32(at.Nanosecond()))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(packet)))
	b = binary.LittleEndian.AppendUint32(b, uint32(size)) //nolint:gosec // an IP packet's
	return append(b, packet...)
}

// Record is one packet of a file.
type Record struct {
	Time time.Time
	Data []byte // the packet, or its beginning; valid until the next one is read
	Size int    // bytes of the whole packet
}

// Reader reads what a member shows.
type Reader struct {
	r   io.Reader
	max int
	buf []byte
}

// NewReader reads the file's header.
func NewReader(r io.Reader) (*Reader, error) {
	var h [fileHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, fmt.Errorf("read capture: %w", unexpected(err))
	}
	snap := binary.LittleEndian.Uint32(h[16:])
	switch {
	case binary.LittleEndian.Uint32(h[:]) != magic || binary.LittleEndian.Uint32(h[20:]) != linkRaw:
		return nil, errors.New("read capture: it is no pcap file of IP packets")
	case snap < wire.MinSnapLength || snap > wire.MaxSnapLength:
		return nil, fmt.Errorf("read capture: snap length: %d is not %d..%d", snap, wire.MinSnapLength, wire.MaxSnapLength)
	}
	return &Reader{r: r, max: int(snap), buf: make([]byte, snap)}, nil
}

// Next reads the next packet. It is io.EOF where the file ends behind one, and io.ErrUnexpectedEOF within one.
func (r *Reader) Next() (Record, error) {
	var h [recordHeader]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return Record{}, err
	}
	n, size := binary.LittleEndian.Uint32(h[8:]), binary.LittleEndian.Uint32(h[12:])
	nanos := binary.LittleEndian.Uint32(h[4:])
	switch {
	case n > uint32(r.max): //nolint:gosec // 16 bits
		return Record{}, fmt.Errorf("read capture: a packet of %d bytes, want at most %d", n, r.max)
	case size < n || size > wire.MaxSnapLength+fileHeader+recordHeader:
		return Record{}, fmt.Errorf("read capture: %d bytes of a packet of %d", n, size)
	case nanos >= uint32(time.Second):
		return Record{}, fmt.Errorf("read capture: %d nanoseconds in a second", nanos)
	}
	if _, err := io.ReadFull(r.r, r.buf[:n]); err != nil {
		return Record{}, unexpected(err)
	}
	return Record{time.Unix(int64(binary.LittleEndian.Uint32(h[:])), int64(nanos)), r.buf[:n], int(size)}, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Writer writes a file.
type Writer struct {
	w   io.Writer
	buf []byte
}

// NewWriter writes the file's header. snapLength is of wire.Capture, and not 0.
func NewWriter(w io.Writer, snapLength int) (*Writer, error) {
	_, err := w.Write(appendHeader(nil, snapLength))
	return &Writer{w: w}, err
}

// Write writes one packet.
func (w *Writer) Write(r Record) error {
	w.buf = appendRecord(w.buf[:0], r.Time, r.Data, r.Size)
	_, err := w.w.Write(w.buf)
	return err
}

// SnapLength is how many bytes of a packet the file has at most.
func (r *Reader) SnapLength() int { return r.max }
