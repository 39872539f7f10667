package main

import (
	"bytes"
	"os"
	"testing"
)

// TestGenerated: what is committed is what the generator writes.
func TestGenerated(t *testing.T) {
	have, err := os.ReadFile("../../aead_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, generate()) {
		t.Error("aead_amd64.s is not what the generator writes: run go generate ./sidecar/wireguard/aead")
	}
}
