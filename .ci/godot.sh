# Sourced by .ci/run: gets a Godot 4 with software OpenGL and Vulkan and a virtual screen, and sets GODOT and GODOT_SCREEN.
# A GODOT that is already set is taken as it is. Needs a Debian machine, root, and get_godot.sh in TOOLS.
TOOLS="${GODOT_TOOLS:-../shared/tools}"

if [ -z "${GODOT:-}" ] && [ -x "$TOOLS/get_godot.sh" ] && [ "$(id -u)" = 0 ]; then
    GODOT_HOME="${GODOT_HOME:-$(mktemp -d)/godot}"
    if [ ! -x "$GODOT_HOME/godot" ]; then
        DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends patchelf xvfb xauth >/dev/null &&
            bash "$TOOLS/get_godot.sh" "$GODOT_HOME" auto libgl1-mesa-dri libglx-mesa0 libegl-mesa0 libgl1 libegl1 \
                libvulkan1 mesa-vulkan-drivers
    fi
    if [ -x "$GODOT_HOME/godot" ]; then
        export GODOT="$GODOT_HOME/godot" GODOT_SCREEN="bash $(realpath "$TOOLS")/run_godot_gl.sh $GODOT_HOME"
    fi
fi
