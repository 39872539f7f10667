package dns

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

// Bounds of what askers can make it hold. The relay in front bounds flows and connections for each of them.
const (
	maxConns   = 128
	idle       = 10 * time.Second
	maxMessage = 1232  // of a datagram
	maxStream  = 65535 // of a message by TCP
)

func (s *Server) serveUDP() {
	buf := make([]byte, maxMessage)
	for {
		n, from, err := s.udp.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // of one asker's socket
		}
		if answer := s.zone.Load().Answer(buf[:n], maxMessage); answer != nil {
			_, _ = s.udp.WriteTo(answer, from)
		}
	}
}

func (s *Server) serveTCP() {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.log.Warn("a question by TCP was not taken", "error", err.Error())
			time.Sleep(100 * time.Millisecond) // out of descriptors, perhaps
			continue
		}
		if !s.track(c) {
			_ = c.Close()
			continue
		}
		s.wg.Go(func() {
			defer s.untrack(c)
			s.answerAll(c)
		})
	}
}

func (s *Server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil || len(s.conns) >= maxConns {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) untrack(c net.Conn) {
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// answerAll answers one connection's questions, each behind its length.
func (s *Server) answerAll(c net.Conn) {
	var size [2]byte
	for {
		_ = c.SetDeadline(time.Now().Add(idle))
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		question := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, question); err != nil {
			return
		}
		answer := s.zone.Load().Answer(question, maxStream)
		if answer == nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}
