package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/test/cluster/pcap"
)

const ownNetns = "/proc/self/ns/net"

func TestPKI(t *testing.T) {
	dir := t.TempDir()
	err := run(t.Context(), []string{"pki", "-dir", dir, "-server", "https://10.60.0.11:6443", "-outside", "https://127.0.0.1:16443",
		"-ip", "10.60.0.11,10.96.0.1", "-nodes", "node1,node2"})
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for file, name := range map[string]string{"apiserver": "10.96.0.1", "admin": "", "kubelet-node2": ""} {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, file+".crt"), filepath.Join(dir, file+".key"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for file, server := range map[string]string{"admin": "https://127.0.0.1:16443", "kubelet-node1": "https://10.60.0.11:6443"} {
		b, err := os.ReadFile(filepath.Join(dir, file+".kubeconfig"))
		if err != nil || !strings.Contains(string(b), server) {
			t.Errorf("%s: no %s in the kubeconfig, %v", file, server, err)
		}
	}
}

func TestUnknownCommand(t *testing.T) {
	for _, args := range [][]string{nil, {"nonsense"}, {"pcapstat", "-f", "/nonexistent"}, {"capture", "-netns", "/nonexistent", "-o", "/dev/null"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}

// echoServer returns its address.
func echoServer(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return ln.Addr().String()
}

func TestForward(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("entering a network namespace needs root")
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	done, file := make(chan error, 1), filepath.Join(t.TempDir(), "address")
	go func() {
		done <- run(ctx, []string{"forward", "-listen", taken.Addr().String(), "-address-file", file, "-netns", ownNetns, "-to", echoServer(t)})
	}()
	c, err := net.Dial("tcp", waitForFile(t, file))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		t.Errorf("got %q, %v", b, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func waitForFile(t *testing.T, file string) string {
	t.Helper()
	for range 6000 {
		if b, err := os.ReadFile(file); err == nil && len(b) > 0 {
			return string(b)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s was not written", file)
	return ""
}

func TestCapture(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("capturing needs root")
	}
	to := echoServer(t)
	file := filepath.Join(t.TempDir(), "x.pcap")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"capture", "-netns", ownNetns, "-i", "lo", "-o", file}) }()
	for range 6000 { // until the socket is open, which only the process's own output tells
		if _, err := os.Stat(file); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	c, err := net.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "a marker")
	_, _ = c.Read(make([]byte, 8))
	_ = c.Close()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := pcap.Count(bytes.NewReader(b), []byte("a marker"))
	if err != nil || s.Marker < 2 || s.TCP < 6 || len(s.MarkerFlows) < 2 {
		t.Errorf("got %+v, %v", s, err)
	}
}
