//go:build node

package e2e

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/signature"
)

// TestReadme runs what the README tells its readers to type. Commands that
// would change the cluster under test are run as far as the API server's checks go.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, b := range blocks(string(readme)) {
		if b.language == "yaml" {
			if _, err := runWith(t.Context(), []byte(b.text), "kubectl", "apply", "--dry-run=server", "-f", "-"); err != nil {
				t.Errorf("the example is refused: %v\n%s", err, b.text)
			}
			ran++
			continue
		}
		for line := range strings.Lines(strings.ReplaceAll(b.text, "\\\n", " ")) {
			args := strings.Fields(line)
			switch {
			case strings.Contains(line, "|"): // for a shell, in a folder with a module
				pipe(t, strings.ReplaceAll(line, "create configmap ", "create configmap --dry-run=server "))
				ran++
				continue
			case len(args) == 0:
				continue
			case args[0] == "make":
				args = append([]string{"make", "--dry-run"}, args[1:]...)
			case args[0] == "helm" && args[1] == "install": // under another name: ours is installed
				args[2] = "readme"
				args = append(args, "--dry-run=client")
			case args[0] == "helm" && args[1] == "uninstall":
				args = append(args, "--dry-run")
			case args[0] == "kubectl" && args[1] == "apply":
				args = append(args, "--dry-run=server", "--server-side", "--force-conflicts")
			default:
				t.Errorf("the test does not know how to run %q", line)
				continue
			}
			if _, err := run(t.Context(), args...); err != nil {
				t.Errorf("README: %v", err)
			}
			ran++
		}
	}
	key, _, _ := strings.Cut(string(readme), "-----END PUBLIC KEY-----")
	_, key, _ = strings.Cut(key, "publicKeys: |\n")
	if _, err := signature.New([]byte(strings.ReplaceAll(key, "      ", "") + "-----END PUBLIC KEY-----\n")); err != nil {
		t.Errorf("README: the example's key: %v", err)
	}
	if ran < 5 {
		t.Errorf("only %d commands and examples were found", ran)
	}
}

// pipe runs a line of shell in a folder that has a main.wasm, large enough for
// two ConfigMaps.
func pipe(t *testing.T, line string) {
	t.Helper()
	folder := t.TempDir()
	module := make([]byte, 1_500_000)
	if _, err := rand.Read(module); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "main.wasm"), module, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run(t.Context(), "bash", "-euo", "pipefail", "-c", "cd "+folder+" && "+line)
	if err != nil || strings.Count(out, "created") != 2 {
		t.Errorf("README: %v, made two ConfigMaps: %s", err, out)
	}
}

type block struct{ language, text string }

// blocks gives the fenced code blocks with a language.
func blocks(markdown string) []block {
	var found []block
	parts := strings.Split(markdown, "```")
	for i := 1; i < len(parts); i += 2 {
		if language, text, _ := strings.Cut(parts[i], "\n"); language != "" {
			found = append(found, block{language, text})
		}
	}
	return found
}
