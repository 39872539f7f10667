package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/test/cluster/pcap"
)

const snapLength = 65535

// capture writes every packet that crosses the interfaces of a network namespace to a file, until ctx ends. The
// kernel strips the link header (SOCK_DGRAM), so that Ethernet, loopback and TUN interfaces fit into one file.
func capture(ctx context.Context, args []string) (err error) {
	fs := flag.NewFlagSet("capture", flag.ExitOnError)
	netns := fs.String("netns", "", "network namespace file, or nothing for our own")
	out := fs.String("o", "", "output file")
	iface := fs.String("i", "any", "interface, or any for all but loopback: that is no wire, and \"kubectl exec\" passes it in plaintext")
	_ = fs.Parse(args)

	fd := -1
	open := func() (err error) {
		fd, err = packetSocket(*iface)
		return err
	}
	if *netns == "" {
		err = open()
	} else {
		err = inNetns(*netns, open)
	}
	if err != nil {
		return fmt.Errorf("%w (captures need root, on a cluster of our own scripts)", err)
	}
	defer func() { _ = unix.Close(fd) }()

	f, err := os.Create(*out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := bufio.NewWriterSize(f, 1<<20)
	defer func() { err = errors.Join(err, buf.Flush()) }()
	w, err := pcap.NewWriter(buf, snapLength)
	if err != nil {
		return err
	}
	fmt.Println("capturing")
	n, err := copyPackets(ctx, fd, *iface == "any", w)
	if err != nil {
		return err
	}
	st, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return fmt.Errorf("read statistics: %w", err)
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"packets": n, "dropped": st.Drops})
}

func packetSocket(iface string) (int, error) {
	all := int(htons(unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	if err := setup(fd, all, iface); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func setup(fd, protocol int, iface string) error {
	// Bursts wait here while we write; short of the privilege to ask for that much, take what we get.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	// The read must return now and then, or nobody would notice that we are to stop.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
		return fmt.Errorf("set read timeout: %w", err)
	}
	if iface == "any" {
		return nil
	}
	i, err := net.InterfaceByName(iface)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", iface, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(protocol), Ifindex: i.Index}); err != nil {
		return fmt.Errorf("bind to %s: %w", iface, err)
	}
	return nil
}

// copyPackets goes on after ctx ends until the socket is empty, so that what was sent before counts.
func copyPackets(ctx context.Context, fd int, skipLoopback bool, w *pcap.Writer) (n int, err error) {
	b := make([]byte, snapLength)
	for {
		flags := unix.MSG_TRUNC
		if ctx.Err() != nil {
			flags |= unix.MSG_DONTWAIT // else a packet now and then would keep us here for ever
		}
		size, from, err := unix.Recvfrom(fd, b, flags)
		switch {
		case errors.Is(err, unix.EAGAIN) && ctx.Err() != nil:
			return n, nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			return n, fmt.Errorf("read packet: %w", err)
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || (skipLoopback && ll.Hatype == unix.ARPHRD_LOOPBACK) {
			continue
		}
		meta := pcap.Meta{Time: time.Now(), Protocol: htons(ll.Protocol), Interface: ll.Ifindex, Hardware: ll.Hatype, Direction: ll.Pkttype}
		copy(meta.Address[:], ll.Addr[:])
		if err := w.Write(meta, b[:min(size, len(b))], size); err != nil {
			return n, fmt.Errorf("write packet: %w", err)
		}
		n++
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
