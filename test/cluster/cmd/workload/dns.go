package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// names is a name server: it answers for what dns-set told it, and prints what it is asked.
type names struct {
	mu sync.Mutex
	m  map[string][]netip.Addr
}

const (
	namesTTL    = 1      // second
	namesInDNS  = 2      // addresses that fit one of its datagrams; the rest takes TCP
	setPrefix   = "set " // no query begins so: it would have an opcode that there is not
	typeA       = 1
	typeAAAA    = 28
	rcodeNoName = 3
)

// serveNames answers by UDP and by TCP.
func serveNames(ctx context.Context, address string) error {
	s := &names{m: map[string][]netip.Addr{}}
	c, err := new(net.ListenConfig).ListenPacket(ctx, "udp", address)
	if err != nil {
		return err
	}
	errs := make(chan error, 1)
	go func() { errs <- serveTCP(ctx, address, s.stream) }()
	go func() { errs <- s.datagrams(c) }()
	return <-errs
}

func (s *names) datagrams(c net.PacketConn) error {
	b := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		reply := []byte("ok")
		if what, ok := strings.CutPrefix(string(b[:n]), setPrefix); ok {
			s.set(what)
		} else {
			reply = s.answer(b[:n], namesInDNS)
		}
		if _, err := c.WriteTo(reply, from); err != nil {
			fmt.Println("dns:", err)
		}
	}
}

func (s *names) stream(c net.Conn) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return
	}
	reply := s.answer(b, 1000)
	_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
}

// set takes "NAME ADDRESS...".
func (s *names) set(what string) {
	f := strings.Fields(what)
	if len(f) == 0 {
		return
	}
	var addresses []netip.Addr
	for _, a := range f[1:] {
		if addr, err := netip.ParseAddr(a); err == nil {
			addresses = append(addresses, addr)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[f[0]] = addresses
}

// answer answers one question; nil: it is none.
func (s *names) answer(q []byte, most int) []byte {
	end, name := 12, ""
	for end < len(q) && q[end] != 0 && end+1+int(q[end]) < len(q) {
		name += string(q[end+1:end+1+int(q[end])]) + "."
		end += 1 + int(q[end])
	}
	if end += 5; end > len(q) {
		return nil
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	typ := binary.BigEndian.Uint16(q[end-4:])
	fmt.Println("dns: asked for", name, typ)
	s.mu.Lock()
	addresses, known := s.m[name]
	s.mu.Unlock()
	r := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end]...)
	if !known {
		r[3] |= rcodeNoName
	}
	for _, a := range addresses {
		if a.Is4() != (typ == typeA) || a.Is6() != (typ == typeAAAA) {
			continue
		}
		if r[7]++; int(r[7]) > most {
			r[2], r[7] = r[2]|2, 0 // truncated
			return r[:end]
		}
		r = append(r, 0xc0, 12, 0, byte(typ), 0, 1, 0, 0, 0, namesTTL, 0, byte(len(a.AsSlice())))
		r = append(r, a.AsSlice()...)
	}
	return r
}

// setNames tells a name server what a name is from now on.
func setNames(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New("want ADDRESS NAME [IP...]")
	}
	c, err := dial(ctx, "udp", args[0])
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte(setPrefix + strings.Join(args[1:], " "))); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 16))
	return err
}
