// Package load makes traffic through a tunnel and counts what arrives of it.
//
// A Server stands behind the far end, a client in front of the near end. Data runs through the tunnel; the client asks the
// server for its counters over HTTP beside it, so that an upload is counted where it arrives, and a proxy that swallows a
// half-closed answer or buffers without bound looks no faster than it is.
//
// Every TCP connection opens with one byte that says what it wants and eight that name it; a datagram carries the same.
package load

import (
	"encoding/binary"
	"fmt"
	"io"
)

// What a connection wants of the server.
const (
	wantSink   = 'U' // read and count all
	wantSource = 'D' // be written to without end
	wantEcho   = 'E' // every request is answered with its like
)

const (
	headerSize = 9
	// RequestSize is a request's length in bytes, and its answer's.
	RequestSize = 64
)

// header opens a connection: run in the upper half of the name, stream in the lower.
func header(want byte, run, stream uint32) []byte {
	b := append(make([]byte, 0, headerSize), want)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, run), stream)
}

func parseHeader(b []byte) (want byte, run, stream uint32, err error) {
	if len(b) < headerSize {
		return 0, 0, 0, io.ErrUnexpectedEOF
	}
	want = b[0]
	if want != wantSink && want != wantSource && want != wantEcho {
		return 0, 0, 0, fmt.Errorf("unknown wish %q", want)
	}
	return want, binary.BigEndian.Uint32(b[1:]), binary.BigEndian.Uint32(b[5:]), nil
}
