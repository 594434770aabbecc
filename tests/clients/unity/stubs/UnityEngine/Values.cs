using System;

namespace UnityEngine
{
    public struct Vector2
    {
        public float x, y;
        public Vector2(float x, float y) { this.x = x; this.y = y; }
    }

    public struct Vector3
    {
        public float x, y, z;
        public Vector3(float x, float y, float z) { this.x = x; this.y = y; this.z = z; }
        public static Vector3 zero => new Vector3();
        public static Vector3 operator +(Vector3 a, Vector3 b) => new Vector3(a.x + b.x, a.y + b.y, a.z + b.z);
        public static Vector3 operator *(Vector3 a, float b) => new Vector3(a.x * b, a.y * b, a.z * b);
    }

    public struct Vector4
    {
        public float x, y, z, w;
        public Vector4(float x, float y, float z, float w) { this.x = x; this.y = y; this.z = z; this.w = w; }
    }

    public struct Quaternion
    {
        public static Quaternion identity => new Quaternion();
        public static Quaternion Euler(float x, float y, float z) => new Quaternion();
    }

    public struct Rect
    {
        public float x, y, width, height;
        public Rect(float x, float y, float width, float height) { this.x = x; this.y = y; this.width = width; this.height = height; }
    }

    public struct Color
    {
        public float r, g, b, a;
        public Color(float r, float g, float b) { this.r = r; this.g = g; this.b = b; a = 1; }
        public static Color black => new Color(0, 0, 0);
    }

    public static class Mathf
    {
        public static float Abs(float value) => Math.Abs(value);
        public static float Max(float a, float b) => Math.Max(a, b);
        public static int Max(int a, int b) => Math.Max(a, b);
        public static float Clamp01(float value) => Math.Min(1, Math.Max(0, value));
    }

    public sealed class SerializeField : Attribute { }
    public sealed class ExecuteAlways : Attribute { }
    public sealed class DefaultExecutionOrder : Attribute
    {
        public int order { get; }
        public DefaultExecutionOrder(int order) { this.order = order; }
    }
    public sealed class DisallowMultipleComponent : Attribute { }
    public sealed class AddComponentMenu : Attribute { public AddComponentMenu(string path) { } }
    public sealed class RequireComponent : Attribute { public RequireComponent(Type type) { } }
    [AttributeUsage(AttributeTargets.Field)] public abstract class PropertyAttribute : Attribute { }
    public sealed class HeaderAttribute : PropertyAttribute { public HeaderAttribute(string text) { } }
    public sealed class TooltipAttribute : PropertyAttribute { public TooltipAttribute(string text) { } }
    public sealed class MinAttribute : PropertyAttribute { public MinAttribute(float least) { } }
    public sealed class RangeAttribute : PropertyAttribute { public RangeAttribute(float least, float most) { } }
}

namespace UnityEngine.Events
{
    public abstract class UnityEventBase { }

    public delegate void UnityAction();
    public delegate void UnityAction<T>(T value);

    [Serializable]
    public class UnityEvent : UnityEventBase
    {
        event UnityAction Called;
        public void AddListener(UnityAction call) => Called += call;
        public void Invoke() => Called?.Invoke();
    }

    [Serializable]
    public class UnityEvent<T> : UnityEventBase
    {
        event UnityAction<T> Called;
        public void AddListener(UnityAction<T> call) => Called += call;
        public void Invoke(T value) => Called?.Invoke(value);
    }
}
