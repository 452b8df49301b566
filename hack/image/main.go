// Command image writes an OCI image as an archive (a tar of an OCI layout)
// from programs that are already built, without a container engine. The same
// programs give the same bytes.
//
//	go run ./hack/image -ref NAME[:TAG] -platform linux/amd64,linux/arm64 \
//	    -from bin -programs operator,plugin-server -out bin/image.tar
//
// The programs are read from FROM/<os>_<arch>/<program> and stand in the root
// of the image. With -tree FOLDER all that is in a folder is the image instead, and
// -entrypoint is a path in it. Without a tag in -ref the tag is made from the
// content, so that a changed program is a changed reference. The full reference is
// printed, and written beside the archive with the ending .ref.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	ref := flags.String("ref", "", "name of the image, with or without a tag")
	platforms := flags.String("platform", "linux/amd64", "platforms, separated by commas")
	from := flags.String("from", "bin", "folder with a folder <os>_<arch> of programs for each platform")
	programs := flags.String("programs", "operator,plugin-server", "programs, separated by commas")
	whole := flags.String("tree", "", "folder whose content is the image, of one platform, instead of programs")
	entrypoint := flags.String("entrypoint", "plugin-server", "program that the image runs by default")
	user := flags.String("user", user, "user and group that it runs as")
	stop := flags.String("stop-signal", "", "signal that ends it, if it is not SIGTERM")
	out := flags.String("out", "bin/image.tar", "archive to write")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *whole != "" && strings.Contains(*platforms, ",") {
		return fmt.Errorf("-tree %s is of one platform, not of %s: write an archive for each", *whole, *platforms)
	}
	config := v1.Config{User: *user, Entrypoint: []string{"/" + *entrypoint}, StopSignal: *stop}
	var images []v1.Image
	for _, text := range strings.Split(*platforms, ",") {
		platform, err := v1.ParsePlatform(text)
		if err != nil {
			return fmt.Errorf("-platform %q: %w", text, err)
		}
		folder, names := filepath.Join(*from, platform.OS+"_"+platform.Architecture), strings.Split(*programs, ",")
		if *whole != "" {
			folder = *whole
			if names, err = tree(folder); err != nil {
				return fmt.Errorf("-tree %s: %w", folder, err)
			}
		}
		img, err := build(*platform, folder, names, config)
		if err != nil {
			return fmt.Errorf("image for %s: %w", text, err)
		}
		images = append(images, img)
	}
	index, err := join(images)
	if err != nil {
		return err
	}
	full, err := complete(*ref, index)
	if err != nil {
		return err
	}
	if err := archive(*out, full, index, images); err != nil {
		return fmt.Errorf("write %s: %w", *out, err)
	}
	fmt.Println(full)
	return os.WriteFile(strings.TrimSuffix(*out, ".tar")+".ref", []byte(full.String()+"\n"), 0o644)
}

// reference is the full name of an image.
type reference struct{ repository, tag string }

func (r reference) String() string { return r.repository + ":" + r.tag }

// complete adds to the name of the image what is missing: the registry that the
// container runtime would add, and a tag made from the content.
func complete(ref string, index v1.ImageIndex) (reference, error) {
	tag, err := name.NewTag(ref, name.WithDefaultTag(""))
	if err != nil {
		return reference{}, fmt.Errorf("-ref %q: %w", ref, err)
	}
	host := tag.RegistryStr()
	if host == name.DefaultRegistry {
		// Container runtimes write the default registry in this way.
		host = "docker.io"
	}
	full := reference{repository: host + "/" + tag.RepositoryStr(), tag: tag.TagStr()}
	if full.tag == "" {
		digest, err := index.Digest()
		if err != nil {
			return reference{}, err
		}
		full.tag = "sha-" + digest.Hex[:12]
	}
	return full, nil
}
