package inspect

import (
	"strings"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
)

func TestChecker(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		module string
		says   string // nothing: it is a module
	}{
		"the smallest module":        {"\x00asm\x01\x00\x00\x00", ""},
		"a module":                   {string(inspecttest.Filled(" and sections")), ""},
		"nothing":                    {"", "it is empty"},
		"a cut header":               {"\x00asm\x01", "ends after 5 bytes"},
		"one byte":                   {"\x00", "ends after 1 bytes"},
		"another version":            {"\x00asm\x02\x00\x00\x00", "version is 02 00 00 00"},
		"a component":                {"\x00asm\x0d\x00\x01\x00", "component"},
		"gzip":                       {"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00", "it is gzip"},
		"zstd":                       {"\x28\xb5\x2f\xfd\x00\x00\x00\x00\x00", "it is zstd"},
		"a zip archive":              {"PK\x03\x04\x00\x00\x00\x00", "zip archive"},
		"a program for the machine":  {"\x7fELF\x02\x01\x01\x00", "native program"},
		"the page of a login portal": {"<!DOCTYPE html>", "HTML page"},
		"text":                       {"hello, world", "begins with the bytes 68"},
		"two bytes of something":     {"hi", "begins with the bytes 68 69"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{1, 3, 1024} { // however the bytes are cut
				err := check(test.module, size)
				if test.says == "" {
					if err != nil {
						t.Errorf("in pieces of %d: %v", size, err)
					}
					continue
				}
				f := failure.Of(err)
				if err == nil || f.Reason != failure.NotWasm || f.Class != failure.Upstream {
					t.Fatalf("in pieces of %d: %v", size, err)
				}
				if size == 1024 && !strings.Contains(f.Message, test.says) {
					t.Errorf("the message does not say %q: %s", test.says, f.Message)
				}
			}
		})
	}
}

func check(module string, size int) error {
	var c Checker
	for len(module) > 0 {
		n := min(size, len(module))
		if _, err := c.Write([]byte(module[:n])); err != nil {
			return err
		}
		module = module[n:]
	}
	return c.Close()
}

func TestCheckerLimit(t *testing.T) {
	t.Parallel()
	var c Checker
	begin := inspecttest.Module([]byte{0}, inspecttest.Number(MaxModuleSize-13)) // and a custom section up to the limit
	if _, err := c.Write(begin); err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for range MaxModuleSize>>20 - 1 {
		if _, err := c.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Write(block[:1<<20-len(begin)]); err != nil {
		t.Errorf("a module of exactly the limit is refused: %v", err)
	}
	if at := c; at.Close() != nil {
		t.Errorf("a module of exactly the limit is not whole: %v", at.Close())
	}
	if _, err := c.Write(block[:1]); failure.Of(err).Reason != failure.TooLarge {
		t.Errorf("a module of one byte more gives %v", err)
	}
}
