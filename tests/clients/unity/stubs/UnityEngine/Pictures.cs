using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using Unity.Collections;

namespace UnityEngine
{
    public enum TextureFormat { RGB24 = 3, RGBA32 = 4 }
    public enum TextureWrapMode { Repeat, Clamp }
    public enum FilterMode { Point, Bilinear }
    public enum ColorSpace { Gamma, Linear }

    public class Texture : Object
    {
        public virtual int width { get; protected set; }
        public virtual int height { get; protected set; }
        public TextureWrapMode wrapMode { get; set; }
        public FilterMode filterMode { get; set; }
    }

    public sealed unsafe class Texture2D : Texture
    {
        public static int Made;
        IntPtr memory;
        int bytes;

        public TextureFormat format { get; private set; }
        public bool IsLinear { get; }
        public int Applied { get; private set; }
        /// <summary>What the GPU would hold: the memory at the last Apply.</summary>
        public byte[] Uploaded { get; private set; } = new byte[0];
        public bool KeepUploads { get; set; } = true;

        public Texture2D(int width, int height, TextureFormat format, bool mipChain, bool linear)
        {
            Made++;
            IsLinear = linear;
            Resize(width, height, format);
        }

        public NativeArray<T> GetRawTextureData<T>() where T : struct => new NativeArray<T>(memory, bytes);

        public void Apply(bool updateMipmaps, bool makeNoLongerReadable)
        {
            Applied++;
            if (!KeepUploads) return;
            if (Uploaded.Length != bytes) Uploaded = new byte[bytes];
            Marshal.Copy(memory, Uploaded, 0, bytes);
        }

        internal void Resize(int newWidth, int newHeight, TextureFormat newFormat)
        {
            width = newWidth;
            height = newHeight;
            format = newFormat;
            bytes = width * height * (format == TextureFormat.RGBA32 ? 4 : 3);
            memory = Marshal.AllocHGlobal(bytes);
        }
    }

    public static class ImageConversion
    {
        public static readonly List<int> Loaded = new List<int>();

        // Unity makes an RGB24 texture of a JPEG. Its size is that of the file; here it stays as it is.
        public static bool LoadImage(Texture2D texture, byte[] data, bool markNonReadable)
        {
            bool isJpeg = data.Length > 2 && data[0] == 0xFF && data[1] == 0xD8;
            if (isJpeg) texture.Resize(texture.width, texture.height, TextureFormat.RGB24);
            Loaded.Add(data.Length);
            return isJpeg;
        }
    }

    public sealed class RenderTexture : Texture
    {
        public RenderTexture(int width, int height, int depth) { this.width = width; this.height = height; }
    }

    public static class Graphics
    {
        public static int Blits;
        public static Vector2 LastScale, LastOffset;

        public static void Blit(Texture source, RenderTexture target, Vector2 scale, Vector2 offset)
        {
            Blits++;
            LastScale = scale;
            LastOffset = offset;
        }
    }

    public class Material : Object
    {
        public readonly HashSet<string> Properties = new HashSet<string>();
        public Shader shader { get; set; }
        public Material() { }
        public Material(Shader shader) { this.shader = shader; }
        public bool HasProperty(string property) => Properties.Contains(property);
        public void SetTexture(string property, Texture texture) { }
        public void SetFloat(string property, float value) { }
        public Texture mainTexture { get; set; }
    }

    public sealed class Shader : Object
    {
        public static Shader Find(string name) => new Shader { name = name };
    }

    public sealed class MaterialPropertyBlock
    {
        public readonly Dictionary<string, object> Set = new Dictionary<string, object>();
        public void SetTexture(string property, Texture texture) => Set[property] = texture;
        public void SetVector(string property, Vector4 value) => Set[property] = value;

        internal void CopyFrom(MaterialPropertyBlock other)
        {
            Set.Clear();
            if (other == null) return;
            foreach (KeyValuePair<string, object> one in other.Set) Set[one.Key] = one.Value;
        }
    }

    public class Renderer : Component
    {
        public MaterialPropertyBlock Block;
        public int Sets;
        public Material sharedMaterial { get; set; }
        public Material material { get; set; } = new Material();
        public bool HasPropertyBlock() => Block != null;
        public void GetPropertyBlock(MaterialPropertyBlock block) => block.CopyFrom(Block);

        // A renderer keeps a copy.
        public void SetPropertyBlock(MaterialPropertyBlock block)
        {
            Sets++;
            Block = block == null ? null : new MaterialPropertyBlock();
            if (block != null) Block.CopyFrom(block);
        }
    }

    public static class RenderSettings { public static Material skybox { get; set; } }
    public static class DynamicGI { public static void UpdateEnvironment() { } }
}

namespace Unity.Collections
{
    public unsafe struct NativeArray<T> where T : struct
    {
        internal IntPtr Start;
        public int Length { get; }
        internal NativeArray(IntPtr start, int length) { Start = start; Length = length; }
    }
}

namespace Unity.Collections.LowLevel.Unsafe
{
    public static class NativeArrayUnsafeUtility
    {
        public static unsafe void* GetUnsafePtr<T>(this NativeArray<T> array) where T : struct => (void*)array.Start;
    }
}
